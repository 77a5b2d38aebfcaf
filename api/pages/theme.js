// Dark or light before the first paint, so a classic script; the button is wired up in main.js.
// Without a choice the system's holds.
const theme = {
  get isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  },
  toggle() {
    const chosen = this.isDark ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    try {
      localStorage.setItem("ragrelay.theme", chosen);
    } catch {
      // Storage is refused: the choice holds until the page is left.
    }
  },
};
window.ragrelayTheme = theme;
try {
  const chosen = localStorage.getItem("ragrelay.theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is refused.
}
