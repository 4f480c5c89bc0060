/* Which frame is shown and how: the clock, the controls, the keyboard. */

const percent = (share) => share > 0 && share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(1)} %`;

/** How frames are shown. Segments are told apart by their keys, which two runs share. */
class View {
  constructor(opacity) {
    Object.assign(this, {
      frame: 0, opacity, outlines: true, wipe: null, base: "", selected: null, hidden: new Set(), solo: null, sure: 0,
    });
  }

  shows(group) {
    return !group.dropped && (this.solo === null ? !this.hidden.has(group.key) : this.solo === group.key);
  }
}

class Player {
  constructor(footage, stages, view) {
    this.footage = footage;
    this.stages = stages;
    this.view = view;
    this.playing = false;
    this.speed = 1;
    this.listeners = [];
    this.turn = 0;
  }

  /** Draw again, and tell those who follow. */
  async refresh() {
    await Promise.all(this.stages.map((stage) => stage.draw(this.view)));
    for (const listener of this.listeners) listener();
  }

  show(frame) {
    this.view.frame = (frame + this.footage.frames) % this.footage.frames;
    return this.refresh();
  }

  step(by) { this.pause(); return this.show(this.view.frame + by); }

  /** Put a segment forward, or none where it is already. */
  select(key) {
    this.view.selected = this.view.selected === key ? null : key;
    return this.refresh();
  }

  hide(key) {
    this.view.solo = null;
    if (!this.view.hidden.delete(key)) this.view.hidden.add(key);
    return this.refresh();
  }

  only(key) {
    this.view.solo = this.view.solo === key ? null : key;
    return this.refresh();
  }

  toggle() { return this.playing ? this.pause() : this.play(); }

  async play() {
    if (this.footage.frames < 2) return;
    this.playing = true;
    const turn = ++this.turn;  // a frame that is shown for long may still hold an earlier turn
    while (this.playing && turn === this.turn) {
      const begun = performance.now();
      await this.show(this.view.frame + 1);
      this.ahead();
      const pace = 1000 * this.footage.seconds(this.view.frame) / this.speed;
      await new Promise((done) => setTimeout(done, Math.max(0, pace - (performance.now() - begun))));
    }
  }

  /** Unpack what comes next while this frame is looked at. */
  ahead() {
    for (let more = 1; more <= 4; more++) {
      const frame = (this.view.frame + more) % this.footage.frames;
      this.footage.base(frame, this.view.base);
      for (const planes of this.footage.planes) planes(frame);
    }
  }

  pause() {
    this.playing = false;
    for (const listener of this.listeners) listener();
  }
}

/** Ties the controls below the picture to a player. */
function connectControls(player) {
  const { view, footage } = player;
  const slider = byId("frame"), opacity = byId("opacity"), outlines = byId("outlines"), wipe = byId("wipe");
  slider.max = footage.frames - 1;
  slider.oninput = () => { player.pause(); player.show(Number(slider.value)); };
  byId("play").onclick = () => player.toggle();
  byId("back").onclick = () => player.step(-1);
  byId("forth").onclick = () => player.step(1);
  byId("speed").onchange = (event) => { player.speed = Number(event.target.value); };
  opacity.value = view.opacity;
  opacity.oninput = () => { view.opacity = Number(opacity.value); player.refresh(); };
  outlines.onchange = () => { view.outlines = outlines.checked; player.refresh(); };
  const wipes = byId("wipes");
  wipes.onchange = () => {
    view.wipe = wipes.checked ? Number(wipe.value) : null;
    wipe.disabled = !wipes.checked;
    player.refresh();
  };
  wipe.oninput = () => { view.wipe = Number(wipe.value); player.refresh(); };
  const sure = byId("sure");
  if (sure) sure.oninput = () => { view.sure = Number(sure.value); player.refresh(); };
  const base = byId("base");
  if (base) base.onchange = () => { view.base = base.value; player.refresh(); };
  player.listeners.push(() => {
    const name = footage.name(view.frame), position = footage.position(view.frame);
    slider.value = view.frame;
    slider.setAttribute("aria-valuetext", `frame ${position + 1} of ${footage.data.total}, ${name}`);
    byId("now").textContent = `${name} · ${position + 1} / ${footage.data.total}`;
    byId("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
    byId("play").title = player.playing ? "Pause (space)" : "Play (space)";
    byId("play").classList.toggle("playing", player.playing);
    opacity.nextElementSibling.textContent = `${Math.round(100 * view.opacity)} %`;
    if (sure) sure.nextElementSibling.textContent = `${Math.round(100 * view.sure)} %`;
  });
}

/** The pointer over a picture: names the segment, selects it, moves the wipe. */
function connectPointer(stage, player, chosen) {
  const { canvas, hint } = stage, { view } = player;
  let wiping = false;
  const wipeTo = (event) => {
    const box = canvas.getBoundingClientRect();
    view.wipe = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    byId("wipe").value = view.wipe;
    player.refresh();
  };
  const tell = (event) => {
    const found = stage.at(event);
    hint.hidden = !found;
    if (!found) return;
    const swatch = document.createElement("i");
    swatch.style.background = found.group.color;
    const sure = found.confidence === null ? "" : ` · ${Math.round(100 * found.confidence)} % sure`;
    hint.replaceChildren(swatch, `${found.group.title} · ${percent(found.share)} of this frame${sure}`);
    const box = canvas.parentElement.getBoundingClientRect();
    const x = event.clientX - box.left, right = x > box.width / 2;
    hint.style.left = right ? "auto" : `${x + 14}px`;
    hint.style.right = right ? `${box.width - x + 14}px` : "auto";
    hint.style.top = `${event.clientY - box.top + 14}px`;
  };
  const nearWipe = (event) => {
    if (view.wipe === null) return false;
    const box = canvas.getBoundingClientRect();
    return Math.abs(event.clientX - box.left - view.wipe * box.width) < 16;
  };
  canvas.onpointerdown = (event) => {
    wiping = nearWipe(event);
    if (wiping) canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    canvas.style.cursor = nearWipe(event) ? "ew-resize" : "crosshair";
    if (wiping) wipeTo(event);
    else tell(event);
  };
  canvas.onpointerup = (event) => {
    const found = wiping ? null : stage.at(event);
    wiping = false;
    if (found) chosen(found.group, event.pointerType !== "touch");
  };
  canvas.onpointerleave = () => { hint.hidden = true; };
}

/** Keys that work wherever nothing is being typed. */
function connectKeys(player, segments, rename) {
  const { view } = player;
  const keys = {
    " ": () => player.toggle(),
    ArrowRight: () => player.step(1),
    ArrowLeft: () => player.step(-1),
    ArrowUp: () => player.step(10),
    ArrowDown: () => player.step(-10),
    Home: () => { player.pause(); player.show(0); },
    End: () => { player.pause(); player.show(player.footage.frames - 1); },
    o: () => byId("outlines").click(),
    w: () => byId("wipes").click(),
    h: () => view.selected !== null && player.hide(view.selected),
    s: () => view.selected !== null && player.only(view.selected),
    n: () => view.selected !== null && rename(),
    Escape: () => { view.solo = null; view.selected = null; player.refresh(); },
  };
  for (let digit = 1; digit <= 9; digit++) {
    keys[digit] = () => {
      const group = segments.groups()[digit - 1];
      if (group) player.select(group.key);
    };
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    const target = event.target, tag = target.tagName;
    if (tag === "SELECT" || (tag === "INPUT" && target.type !== "range" && target.type !== "checkbox")) return;
    if (target.type === "range" && /^(Arrow|Home|End)/.test(event.key)) return;
    if (event.key === " " && /^(BUTTON|INPUT|SUMMARY|A)$/.test(tag) && target.type !== "range") return;
    event.preventDefault();
    keys[event.key]();
  });
}
