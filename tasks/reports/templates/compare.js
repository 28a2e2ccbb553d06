(() => {
  "use strict";

  // Sort tables by a click on a column head (a second click reverses the order). Filter them by words and by conditions such as accuracy>95.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const key = (row, i) => { const text = row.cells[i].dataset.key, number = Number(text); return text === "" || Number.isNaN(number) ? text : number; };
    const compare = (a, b) => {
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
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => {
          const x = key(a, i), y = key(b, i);
          return x === "" || y === "" ? compare(x, y) : (descending ? -1 : 1) * compare(x, y);  // rows without a value stay last
        });
        body.append(...rows);
      });
    });

    const field = document.querySelector(`input[data-filter="${table.id}"]`);
    if (!field) continue;
    const count = document.querySelector(`output[data-count="${table.id}"]`), names = heads.map(head => head.textContent.toLowerCase());
    field.closest("[hidden]").hidden = false;
    // Return the number as shown (percent, points, GB). For durations, whose unit varies, and for text: the sort key.
    const value = (row, i) => {
      const cell = row.cells[i], number = cell.classList.contains("n") && /^[-+−]?\d+(\.\d+)?(e[-+]?\d+)?(?=$|\sto\s|\s[%(]|\sGB)/.exec(cell.textContent);
      const shown = number ? Number(number[0].replace("−", "-")) : key(row, i);
      return typeof shown === "string" ? shown.toLowerCase() : shown;
    };
    const columns = new Map();  // by name, and by the last part of a dotted name
    names.forEach((name, i) => { for (const key of [name, name.split(".").pop()]) if (!columns.has(key)) columns.set(key, i); });
    const known = [...columns.keys()].sort((a, b) => b.length - a.length).map(name => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
    const conditions = new RegExp(`(?<=^|\\s)(${known})\\s*(>=|<=|>|<|=)\\s*(\\S+)(\\s*%)?`, "g");
    const condition = (name, sign, text) => {
      const number = Number(text.replace(/(%|gb|s)$/, "")), target = Number.isNaN(number) ? text : number;
      return row => {
        const actual = value(row, columns.get(name)), order = compare(actual, target);
        return actual !== "" && (sign === "=" ? order === 0 : sign === ">" ? order > 0 : sign === "<" ? order < 0 : sign === ">=" ? order >= 0 : order <= 0);
      };
    };
    field.addEventListener("input", () => {
      const tests = [];
      const rest = field.value.toLowerCase().replace(conditions, (_, name, sign, text) => { tests.push(condition(name, sign, text)); return " "; });
      for (const word of rest.split(/\s+/).filter(Boolean)) tests.push(row => row.textContent.toLowerCase().includes(word));
      let shown = 0;
      for (const row of body.rows) { row.hidden = !tests.every(test => test(row)); shown += !row.hidden; }
      count.textContent = tests.length ? `${shown} of ${body.rows.length}` : "";
    });
  }
})();
