"""What the stage `report` is made of: results read and checked, words, published figures, sections, gallery."""
