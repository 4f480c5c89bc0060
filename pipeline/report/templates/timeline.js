/* The share of each segment over the clip, as a stacked band; click or drag to go there. With the keyboard it is a
   slider: the keys of the player move it. */

const SVG = "http://www.w3.org/2000/svg";

class Timeline {
  /** @param element holds an svg, a cursor and a hint. */
  constructor(element, run, segments, player) {
    Object.assign(this, { element, run, segments, player });
    this.svg = element.querySelector("svg");
    this.cursor = element.querySelector(".cursor");
    this.hint = element.querySelector(".hint");
    this.svg.setAttribute("viewBox", `0 0 ${run.columns.length} 1`);
    let going = false;
    const go = (event) => player.show(player.footage.near(this.fraction(event) * player.footage.data.total - 0.5));
    element.onpointerdown = (event) => {
      going = true;
      element.focus();
      element.setPointerCapture(event.pointerId);
      player.pause();
      go(event);
    };
    element.onpointermove = (event) => going ? go(event) : this.tell(event);
    element.onpointerup = () => { going = false; };
    element.onpointerleave = () => { this.hint.hidden = true; };
  }

  fraction(event) {
    const box = this.svg.getBoundingClientRect();
    return Math.max(0, Math.min(0.9999, (event.clientX - box.left) / box.width));
  }

  /** Draw the bands; one is a path through its columns, on top of those before it. */
  draw() {
    const count = this.run.columns.length, below = new Array(count).fill(0);
    const paths = this.segments.groups().map((group) => {
      const top = below.map((height, column) => height + group.band[column]);
      const path = document.createElementNS(SVG, "path");
      const forth = top.map((height, column) => `${column} ${1 - height}H${column + 1}`);
      const back = below.map((height, column) => `${column + 1} ${1 - height}H${column}`).reverse();
      path.setAttribute("d", `M${forth.join("L")}L${back.join("L")}Z`);
      path.setAttribute("fill", group.color);
      path.dataset.key = group.key;
      top.forEach((height, column) => { below[column] = height; });
      return path;
    });
    this.svg.replaceChildren(...paths);
    this.follow();
  }

  /** Put the cursor where the player is, and forward what is selected. */
  follow() {
    const { view, footage } = this.player;
    this.cursor.style.left = `${100 * (footage.position(view.frame) + 0.5) / footage.data.total}%`;
    for (const path of this.svg.children) {
      const group = this.segments.ofKey(Number(path.dataset.key));
      const dim = view.selected !== null && view.selected !== group.key;
      path.setAttribute("fill-opacity", view.shows(group) ? (dim ? 0.3 : 1) : 0.08);
    }
    if (!this.player.playing) this.say();
  }

  /** What a screen reader says: the frame, and how much of it the largest segments take. */
  say() {
    const { view, footage } = this.player, { total, names } = footage.data, { columns } = this.run;
    const position = footage.position(view.frame);
    const column = Math.floor((position + 0.5) / total * columns.length);
    const largest = this.segments.groups().filter((group) => group.band[column] > 0)
      .sort((one, other) => other.band[column] - one.band[column]).slice(0, 3);
    const shares = largest.map((group) => `${group.title} ${percent(group.band[column])}`).join(", ");
    this.element.setAttribute("aria-valuenow", position + 1);
    this.element.setAttribute("aria-valuetext", `frame ${position + 1} of ${total}, ${names[position]}: ${shares}`);
  }

  tell(event) {
    const box = this.svg.getBoundingClientRect(), { columns } = this.run, total = this.player.footage.data.total;
    const position = Math.floor(this.fraction(event) * total);
    const column = Math.floor(this.fraction(event) * columns.length);
    let height = 1 - (event.clientY - box.top) / box.height;
    const group = this.segments.groups().find((one) => (height -= one.band[column]) <= 0);
    this.hint.hidden = !group;
    if (!group) return;
    const swatch = document.createElement("i");
    swatch.style.background = group.color;
    const name = this.player.footage.data.names[position];
    this.hint.replaceChildren(swatch, `${group.title} · ${percent(group.band[column])} of frame ${name}`);
    const x = event.clientX - box.left, right = x > box.width / 2;
    this.hint.style.left = right ? "auto" : `${x + 12}px`;
    this.hint.style.right = right ? `${box.width - x + 12}px` : "auto";
  }
}
