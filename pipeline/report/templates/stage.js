/* One canvas: a frame, and the segments of one run over it. */

const colourBytes = (hex, alpha) => {
  const value = parseInt(hex.slice(1), 16);
  return ((alpha << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
};
const OUTLINE = 0xd8ffffff;  // white, a little transparent
const DIMMED = 0.35;
const UNSURE = 0xa8000000;  // black, a third transparent

class Stage {
  /**
   * @param figure holds the canvas and the hint that follows the pointer.
   * @param number of the run that is shown.
   */
  constructor(figure, number, footage, segments) {
    this.canvas = figure.querySelector("canvas");
    this.hint = figure.querySelector(".hint");
    this.footage = footage;
    this.segments = segments;
    this.number = number;
    this.canvas.width = footage.width;
    this.canvas.height = footage.height;
    this.context = this.canvas.getContext("2d");
    this.labels = document.createElement("canvas");
    this.labels.width = footage.width;
    this.labels.height = footage.height;
    this.image = this.labels.getContext("2d").createImageData(footage.width, footage.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.plane = null;
    this.latest = 0;
  }

  /** Draw a view; a call that a later one overtakes draws nothing. */
  async draw(view) {
    const call = ++this.latest;
    const [base, plane] = await Promise.all([
      this.footage.base(view.frame, view.base), this.footage.planes[this.number](view.frame)]);
    const confidence = this.footage.confidence[this.number];
    const sureness = confidence ? await confidence(view.frame) : null;
    if (call !== this.latest) return;
    this.plane = plane;
    this.sureness = sureness;
    const { width, height } = this.canvas;
    this.paint(view);
    this.context.imageSmoothingEnabled = view.base === "";
    this.context.drawImage(base, 0, 0, width, height);
    const left = view.wipe === null ? 0 : Math.round(view.wipe * width);
    if (left < width) this.context.drawImage(this.labels, left, 0, width - left, height, left, 0, width - left, height);
    if (view.wipe !== null) {
      this.context.fillStyle = "#fff";
      this.context.fillRect(left - 1, 0, 2, height);
    }
  }

  /** The labels' colours and outlines, as the view wants them. */
  paint(view) {
    const { plane, pixels } = this, { width, height } = this.footage;
    const groups = this.segments.groups();
    const highest = Math.max(...this.segments.labels.keys());
    const table = new Uint32Array(highest + 1), part = new Uint16Array(highest + 1);
    groups.forEach((group, place) => {
      const dim = view.selected !== null && view.selected !== group.key ? DIMMED : 1;
      const shown = view.shows(group);
      const colour = shown ? colourBytes(group.color, Math.round(255 * view.opacity * dim)) : 0;
      for (const id of group.ids) { table[id] = colour; part[id] = shown ? place + 1 : 0; }
    });
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[plane[i]];
    if (this.sureness && view.sure > 0) this.darken(255 * view.sure);
    if (!view.outlines) return this.putLabels();
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const own = part[plane[i]];
        if ((x + 1 < width && part[plane[i + 1]] !== own) || (y + 1 < height && part[plane[i + width]] !== own)) {
          pixels[i] = OUTLINE;
        }
      }
    }
    this.putLabels();
  }

  /** Darken pixels that are less sure than a level of 0 to 255. */
  darken(level) {
    const { pixels, sureness } = this, { width, height } = this.footage;
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) if (sureness[this.cell(x, y)] < level) pixels[i] = UNSURE;
    }
  }

  /** Where a pixel is in the confidence, which has a quarter of the picture's size. */
  cell(x, y) {
    const { width, height } = this.footage;
    const columns = Math.max(1, Math.floor(width / 4)), rows = Math.max(1, Math.floor(height / 4));
    return Math.min(rows - 1, y >> 2) * columns + Math.min(columns - 1, x >> 2);
  }

  putLabels() { this.labels.getContext("2d").putImageData(this.image, 0, 0); }

  /** Where a pointer is on the frame: column, row, segment, its share of the frame, how sure it is (null = not known). */
  at(event) {
    const box = this.canvas.getBoundingClientRect(), { width, height } = this.footage;
    const x = Math.floor((event.clientX - box.left) / box.width * width);
    const y = Math.floor((event.clientY - box.top) / box.height * height);
    if (!this.plane || x < 0 || y < 0 || x >= width || y >= height) return null;
    const group = this.segments.ofLabel(this.plane[y * width + x]);
    if (!group) return null;
    const confidence = this.sureness ? this.sureness[this.cell(x, y)] / 255 : null;
    return { x, y, group, share: this.share(group), confidence };
  }

  /** A segment's share of the frame that is shown. */
  share(group) {
    if (this.counted !== this.plane) {
      this.counted = this.plane;
      this.counts = new Uint32Array(Math.max(...this.segments.labels.keys()) + 1);
      for (const id of this.plane) this.counts[id]++;
    }
    return group.ids.reduce((sum, id) => sum + this.counts[id], 0) / this.plane.length;
  }
}
