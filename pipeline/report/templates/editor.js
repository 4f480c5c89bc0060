/* Names, colours and merging of the selected segment; undo, what the browser keeps, names.json. */

class Editor {
  constructor(segments, player, key) {
    Object.assign(this, { segments, player, key });
    this.form = byId("editor");
    const name = byId("name"), color = byId("color"), into = byId("into");
    name.onchange = () => this.group && segments.rename(this.group, name.value);
    name.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Escape") name.value = this.group?.name ?? "";
      byId("stage").focus();  // leaving the field takes the name over
    };
    color.onchange = () => this.group && segments.recolour(this.group, color.value);
    byId("merge").onclick = () => {
      const other = segments.groups().find((group) => String(group.id) === into.value);
      if (!this.group || !other) return;
      const group = this.group;
      this.player.view.selected = other.key;
      segments.merge(group, other);
    };
    byId("split").onclick = () => this.group && segments.split(this.group);
    byId("drop").onclick = () => this.group && segments.drop(this.group, !this.group.dropped);
    byId("undo").onclick = () => segments.undo();
    byId("reset").onclick = () => segments.reset();
    byId("save").onclick = () => this.save();
    this.form.onsubmit = (event) => event.preventDefault();
    document.addEventListener("keydown", (event) => {
      const typing = event.target === name;
      if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key === "z" && !typing) {
        event.preventDefault();
        segments.undo();
      }
    });
    this.restore();
    segments.listeners.push(() => this.keep());
  }

  get group() {
    const { selected } = this.player.view;
    return selected === null ? null : this.segments.ofKey(selected) ?? null;
  }

  /** Begin to type a name. */
  focus() {
    byId("name").focus();
    byId("name").select();
  }

  follow() {
    const { segments, group } = this;
    this.form.classList.toggle("idle", !group);
    byId("undo").disabled = !segments.past.length;
    byId("reset").disabled = !segments.isChanged;
    if (!group) return;
    byId("which").textContent = group.title;
    if (document.activeElement !== byId("name")) byId("name").value = group.name ?? "";
    byId("name").placeholder = `label ${group.id}`;
    byId("color").value = group.color;
    const none = new Option("another segment…", "");
    const others = segments.groups().filter((other) => other.id !== group.id && !other.dropped);
    byId("into").replaceChildren(none, ...others.map((other) => new Option(other.title, other.id)));
    byId("split").hidden = group.ids.length < 2;
    byId("drop").textContent = group.dropped ? "Take it back" : "Leave it out";
  }

  /** What a person said last time, if these are the same segments. */
  restore() {
    try {
      const edit = JSON.parse(kept.get(this.key) ?? "null");
      if (edit && typeof edit === "object") this.segments.restore(edit);
    } catch { kept.remove(this.key); }
  }

  keep() {
    if (this.segments.isChanged) kept.set(this.key, JSON.stringify(this.segments.edit));
    else kept.remove(this.key);
  }

  save() {
    const text = `${JSON.stringify(this.segments.record(), null, 1)}\n`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "names.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    byId("said").textContent = "names.json was saved to your downloads.";
  }
}
