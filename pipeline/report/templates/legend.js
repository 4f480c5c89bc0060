/* The list of segments: what each is called, how much it has, where it is; show, hide, solo, merge by dragging. */

function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), use = document.createElementNS(SVG, "use");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

function element(tag, className, ...content) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

class Legend {
  /**
   * @param list an ol.
   * @param chosen called with a segment that is clicked.
   * @param merging whether a segment may be dropped on another.
   */
  constructor(list, segments, player, chosen, merging) {
    Object.assign(this, { list, segments, player, chosen, merging });
  }

  draw() {
    const held = document.activeElement?.closest?.("li") && this.list.contains(document.activeElement)
      ? [document.activeElement.closest("li").dataset.key, document.activeElement.className] : null;
    const groups = this.segments.groups();
    this.list.replaceChildren(...groups.map((group, place) => this.row(group, place)));
    this.list.parentElement.querySelector(".count").textContent = groups.length;
    this.follow();
    if (held) this.list.querySelector(`li[data-key="${held[0]}"] .${held[1]}`)?.focus();
  }

  row(group, place) {
    const { names } = this.player.footage.data;
    const swatch = element("i", "swatch");
    swatch.style.background = group.color;
    const digit = element("kbd", place < 9 ? "" : "none", place < 9 ? String(place + 1) : "");
    const pick = element("button", "pick", swatch, element("span", "name", group.title), digit);
    pick.title = `Select ${group.title}`;
    pick.onclick = () => this.chosen(group, false);
    const bar = element("span", "bar", element("i", ""));
    bar.firstChild.style.width = `${100 * group.share}%`;
    bar.firstChild.style.background = group.color;
    const [first, last] = [names[group.first], names[group.last]];
    const short = names.every((name) => name.length < 8) ? [first, last] : [group.first + 1, group.last + 1];
    const when = group.first === group.last ? `frame ${short[0]}` : short.join(" – ");
    const about = element("span", "about", bar, element("b", "", percent(group.share)), element("span", "when", when));
    about.lastChild.title = `First frame ${first}, last frame ${last}`;
    const hide = element("button", "hide", icon("eye"));
    hide.onclick = () => this.player.hide(group.key);
    const solo = element("button", "solo", "only");
    solo.title = `Show only ${group.title}`;
    solo.setAttribute("aria-label", solo.title);
    solo.onclick = () => this.player.only(group.key);
    const row = element("li", "", pick, hide, solo, about);
    row.dataset.key = group.key;
    if (this.merging) this.drag(row, group);
    return row;
  }

  drag(row, group) {
    row.draggable = true;
    row.ondragstart = (event) => {
      event.dataTransfer.setData("text/plain", String(group.id));
      event.dataTransfer.effectAllowed = "move";
    };
    row.ondragover = (event) => { event.preventDefault(); row.classList.add("target"); };
    row.ondragleave = () => row.classList.remove("target");
    row.ondrop = (event) => {
      event.preventDefault();
      const dropped = this.segments.groups().find((one) => String(one.id) === event.dataTransfer.getData("text/plain"));
      row.classList.remove("target");
      if (dropped && dropped.id !== group.id) {
        this.player.view.selected = group.key;
        this.segments.merge(dropped, group);
      }
    };
  }

  /** Show what is selected, hidden and alone. */
  follow() {
    const { view } = this.player;
    for (const row of this.list.children) {
      const group = this.segments.ofKey(Number(row.dataset.key));
      if (!group) continue;
      const shown = view.shows(group), selected = view.selected === group.key;
      row.classList.toggle("selected", selected);
      row.classList.toggle("unseen", !shown);
      row.classList.toggle("dropped", group.dropped);
      row.querySelector(".pick").setAttribute("aria-pressed", selected);
      const hide = row.querySelector(".hide");
      hide.replaceChildren(icon(shown ? "eye" : "closed"));
      hide.setAttribute("aria-pressed", !shown);
      hide.title = `${shown ? "Hide" : "Show"} ${group.title}`;
      hide.setAttribute("aria-label", hide.title);
      row.querySelector(".solo").setAttribute("aria-pressed", view.solo === group.key);
    }
  }
}
