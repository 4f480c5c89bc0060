/* What labels are called, which are one segment, which are left out; what names.json says. Knows nothing of the page. */

class Segments {
  /** @param run one entry of the page's `runs`. */
  constructor(run) {
    this.run = run;
    this.labels = new Map(run.segments.map((label) => [label.id, label]));
    this.start = Segments.said(run.start);
    // Of labels that this video does not show, what names.json says is kept.
    const { names, colors, into, dropped } = this.start;
    const said = [names, colors, into, dropped].flatMap(Object.keys).map(Number).concat(Object.values(into));
    const band = run.columns.map(() => 0);
    for (const id of said) {
      if (this.labels.has(id)) continue;
      const nowhere = { share: 0, first: Infinity, last: -Infinity, band };
      this.labels.set(id, { id, key: id, name: null, color: "#808080", absent: true, ...nowhere });
    }
    this.edit = structuredClone(this.start);
    this.past = [];
    this.listeners = [];
    this.found = null;
  }

  /** names.json's content as plain tables by label. */
  static said(record) {
    const edit = { names: {}, colors: {}, into: {}, dropped: {} };
    for (const [id, { name, color }] of Object.entries(record?.names ?? {})) {
      if (name) edit.names[id] = name;
      if (color) edit.colors[id] = color;
    }
    for (const [into, ...others] of record?.merge ?? []) for (const id of others) edit.into[id] = into;
    for (const id of record?.drop ?? []) edit.dropped[id] = true;
    return edit;
  }

  /** The label that a label is a part of. */
  target(id) {
    for (let steps = 0; id in this.edit.into && steps <= this.labels.size; steps++) id = this.edit.into[id];
    return id;
  }

  /** All segments of the video, the largest first, those that are left out last. */
  groups() { return this.everything().filter((group) => !group.absent); }

  /** Those that the video does not show as well. */
  everything() {
    if (this.found) return this.found;
    const { names, colors, dropped } = this.edit;
    const parts = new Map();
    for (const label of this.labels.values()) {
      const id = this.target(label.id);
      parts.set(id, [...(parts.get(id) ?? []), label]);
    }
    this.found = [...parts].map(([id, labels]) => {
      const own = this.labels.get(id) ?? labels[0];
      const name = names[id] ?? labels.map((label) => names[label.id]).find(Boolean) ?? own.name;
      return {
        id,
        ids: labels.map((label) => label.id),
        key: own.key,
        name,
        title: name ?? (labels.length > 1 ? `labels ${labels.map((label) => label.id).join(", ")}` : `label ${id}`),
        color: colors[id] ?? own.color,
        share: labels.reduce((sum, label) => sum + label.share, 0),
        first: Math.min(...labels.map((label) => label.first)),
        last: Math.max(...labels.map((label) => label.last)),
        band: own.band.map((_, column) => labels.reduce((sum, label) => sum + label.band[column], 0)),
        dropped: Boolean(dropped[id]),
        absent: labels.every((label) => label.absent),
      };
    });
    this.found.sort((a, b) => a.dropped - b.dropped || b.share - a.share || a.id - b.id);
    return this.found;
  }

  ofKey(key) { return this.groups().find((group) => group.key === key); }

  ofLabel(id) { return this.groups().find((group) => group.ids.includes(id)); }

  rename(group, name) {
    const text = name.trim().slice(0, 200);
    if (text === (group.name ?? "")) return;
    this.change((edit) => {
      for (const id of group.ids) delete edit.names[id];
      if (text) edit.names[group.id] = text;
    });
  }

  recolour(group, color) {
    if (color !== group.color) this.change((edit) => { edit.colors[group.id] = color; });
  }

  /** One segment becomes a part of another, which keeps its name unless it has none. */
  merge(group, into) {
    if (group.id === into.id) return;
    this.change((edit) => {
      for (const id of [...group.ids, ...into.ids]) { delete edit.names[id]; delete edit.dropped[id]; }
      for (const id of group.ids) delete edit.colors[id];
      const name = into.name ?? group.name;
      if (name && name !== this.labels.get(into.id)?.name) edit.names[into.id] = name;
      for (const id of group.ids) edit.into[id] = into.id;
    });
  }

  split(group) {
    this.change((edit) => { for (const id of group.ids) delete edit.into[id]; });
  }

  /** Leave a segment out, or take it back. */
  drop(group, dropped) {
    this.change((edit) => {
      if (dropped) edit.dropped[group.id] = true;
      else delete edit.dropped[group.id];
    });
  }

  undo() {
    if (!this.past.length) return;
    this.edit = JSON.parse(this.past.pop());
    this.changed();
  }

  /** Back to how the page was made; can be undone. */
  reset() { this.change((edit) => { Object.assign(edit, structuredClone(this.start)); }); }

  /** Replace what was said, e.g. by what the browser kept. */
  restore(edit) {
    this.edit = { ...structuredClone(this.start), ...edit };
    this.changed();
  }

  get isChanged() { return JSON.stringify(this.edit) !== JSON.stringify(this.start); }

  change(how) {
    this.past.push(JSON.stringify(this.edit));
    how(this.edit);
    this.changed();
  }

  changed() {
    this.found = null;
    for (const listener of this.listeners) listener();
  }

  /** The content of names.json. */
  record() {
    const names = {}, merge = [], drop = [];
    for (const group of this.everything()) {
      if (group.dropped) { drop.push(...group.ids); continue; }
      if (group.ids.length > 1) merge.push([group.id, ...group.ids.filter((id) => id !== group.id)]);
      const said = {};
      if (group.name && group.name !== this.labels.get(group.id)?.name) said.name = group.name;
      if (this.edit.colors[group.id]) said.color = this.edit.colors[group.id];
      if (Object.keys(said).length) names[group.id] = said;
    }
    drop.sort((a, b) => a - b);
    return { schema: "names", schema_version: 1, fits: this.run.fits, names, merge, drop };
  }
}
