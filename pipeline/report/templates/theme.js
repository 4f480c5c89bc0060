"use strict";
/* Light or dark: as the system is, until a person chooses; the choice is kept in the browser. */

/** What the browser keeps, which some do not allow for files. */
const kept = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* nothing is kept */ } },
  remove(key) { try { localStorage.removeItem(key); } catch { /* nothing was kept */ } },
};

const byId = (id) => document.getElementById(id);

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const button = byId("theme");
  button.textContent = dark ? "Light" : "Dark";
  button.title = `Show the page ${dark ? "light" : "dark"}`;
  button.onclick = () => {
    const next = dark ? "light" : "dark";
    kept.set("vidseg-theme", next);
    applyTheme(next);
  };
}

applyTheme(kept.get("vidseg-theme"));
