(() => {
  "use strict";
  const root = document.documentElement, key = "episodic-report-theme";

  // Theme: that of the system until the reader chooses. Colours are CSS variables, also in charts: nothing is redrawn.
  const button = document.getElementById("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const now = () => root.dataset.theme || (dark.matches ? "dark" : "light");
  const name = () => { button.textContent = now() === "dark" ? "Light theme" : "Dark theme"; };
  try { const kept = localStorage.getItem(key); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch { /* without storage the choice lasts until the page is closed */ }
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = now() === "dark" ? "light" : "dark";
    try { localStorage.setItem(key, root.dataset.theme); } catch { /* as above */ }
    name();
  });
  dark.addEventListener("change", name);
  name();

  // Charts: the specs are embedded as JSON. The expression interpreter (ast) needs no eval.
  const json = id => JSON.parse(document.getElementById(id).textContent);
  const config = json("chart-config");
  const draw = async () => {
    for (const place of document.querySelectorAll("[data-chart]")) {
      await vegaEmbed(place, json(place.dataset.chart), { config, actions: false, renderer: "svg", ast: true, tooltip: { theme: "report" } });
    }
    root.dataset.drawn = "yes";
  };
  draw();

  // Mark the current section in the table of contents.
  const links = new Map([...document.querySelectorAll('nav a[href^="#"]')].map(a => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const a of links.values()) a.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const id of links.keys()) { const part = document.getElementById(id); if (part) seen.observe(part); }

  // Unfold all details for printing.
  const folded = new Set();
  addEventListener("beforeprint", () => { for (const d of document.querySelectorAll("details:not([open])")) { d.open = true; folded.add(d); } });
  addEventListener("afterprint", () => { for (const d of folded) d.open = false; folded.clear(); });
})();
