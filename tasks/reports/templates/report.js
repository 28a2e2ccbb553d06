(() => {
  "use strict";
  const root = document.documentElement, key = "episodic-report-theme";

  // Theme: follow the system setting until the user selects one. Chart colours are CSS variables, so charts need no redraw.
  const button = document.getElementById("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const currentTheme = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const updateLabel = () => { button.textContent = currentTheme() === "dark" ? "Light theme" : "Dark theme"; };
  try { const stored = localStorage.getItem(key); if (stored === "dark" || stored === "light") root.dataset.theme = stored; } catch { /* without storage the choice lasts until the page is closed */ }
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = currentTheme() === "dark" ? "light" : "dark";
    try { localStorage.setItem(key, root.dataset.theme); } catch { /* as above */ }
    updateLabel();
  });
  dark.addEventListener("change", updateLabel);
  updateLabel();

  // Charts: the specs are embedded as JSON. The expression interpreter (ast) needs no eval.
  const json = id => JSON.parse(document.getElementById(id).textContent);
  const config = json("chart-config");
  const draw = async () => {
    for (const container of document.querySelectorAll("[data-chart]")) {
      await vegaEmbed(container, json(container.dataset.chart), { config, actions: false, renderer: "svg", ast: true, tooltip: { theme: "report" } });
    }
    root.dataset.rendered = "yes";
  };
  draw();

  // Mark the current section in the table of contents.
  const links = new Map([...document.querySelectorAll('nav a[href^="#"]')].map(a => [a.hash.slice(1), a]));
  const observer = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const a of links.values()) a.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const id of links.keys()) { const section = document.getElementById(id); if (section) observer.observe(section); }

  // Expand all <details> for printing.
  const expanded = new Set();
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details:not([open])")) { d.open = true; expanded.add(d); } });
  addEventListener("afterprint", () => { for (const d of expanded) d.open = false; expanded.clear(); });
})();
