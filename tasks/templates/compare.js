(() => {
  "use strict";

  // Tables that sort by a click on a head (again: the other way round) and filter by words or by conditions such as seeds>2.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const key = (row, i) => { const text = row.cells[i].dataset.key, number = Number(text); return text === "" || Number.isNaN(number) ? text : number; };
    const before = (a, b) => {
      if (a === b) return 0;
      if (a === "") return 1;
      if (b === "") return -1;
      return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
    };
    heads.forEach((head, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => {
          const x = key(a, i), y = key(b, i);
          return x === "" || y === "" ? before(x, y) : (down ? -1 : 1) * before(x, y);  // what has no value stays last
        });
        body.append(...rows);
      });
    });

    const field = document.querySelector(`input[data-filter="${table.id}"]`);
    if (!field) continue;
    const count = document.querySelector(`output[data-count="${table.id}"]`), names = heads.map(head => head.textContent.toLowerCase());
    field.closest("[hidden]").hidden = false;
    const condition = word => {
      const match = /^(.+?)(>=|<=|>|<|=)(.+)$/.exec(word);
      const i = match ? names.findIndex(name => name === match[1] || name.split(".").pop() === match[1]) : -1;
      if (i < 0) return row => row.textContent.toLowerCase().includes(word);
      const sign = match[2], wanted = Number.isNaN(Number(match[3])) ? match[3] : Number(match[3]);
      return row => {
        const value = key(row, i), order = before(typeof value === "string" ? value.toLowerCase() : value, wanted);
        return sign === "=" ? order === 0 : sign === ">" ? order > 0 : sign === "<" ? order < 0 : sign === ">=" ? order >= 0 : order <= 0;
      };
    };
    field.addEventListener("input", () => {
      const tests = field.value.toLowerCase().split(/\s+/).filter(Boolean).map(condition);
      let shown = 0;
      for (const row of body.rows) { row.hidden = !tests.every(test => test(row)); shown += !row.hidden; }
      count.textContent = tests.length ? `${shown} of ${body.rows.length}` : "";
    });
  }
})();
