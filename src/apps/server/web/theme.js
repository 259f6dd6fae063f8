// Owns the choice of dark or light: the system's, unless the visitor chose. Runs before the first paint.
{
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const systems = () => system.matches ? "dark" : "light";
  const apply = () => (root.dataset.theme = localStorage.getItem("nostos.theme") ?? systems());
  apply();
  system.onchange = apply;
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").onclick = () => {
      const chosen = root.dataset.theme === "dark" ? "light" : "dark";
      // Back at the system's own scheme, follow it again.
      if (chosen === systems()) localStorage.removeItem("nostos.theme");
      else localStorage.setItem("nostos.theme", chosen);
      apply();
    };
  });
}
