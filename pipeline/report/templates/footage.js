/* Pictures and label maps, unpacked when they are first shown; the last ones are kept. */

const KEPT_FRAMES = 48;

/** Remembers the last results of a function of one key. */
function remembering(make, most = KEPT_FRAMES) {
  const known = new Map();
  return (key) => {
    const value = known.get(key) ?? make(key);
    known.delete(key);
    known.set(key, value);
    if (known.size > most) known.delete(known.keys().next().value);
    return value;
  };
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));

/** A map (h x width) as it was packed: deflated, each row XOR the one above it. */
async function unpack(text, kind, width) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const values = kind === "u8" ? new Uint8Array(buffer) : new Uint16Array(buffer);
  for (let i = width; i < values.length; i++) values[i] ^= values[i - width];
  return values;
}

class Footage {
  constructor(data) {
    const [height, width] = data.size;
    this.width = width;
    this.height = height;
    this.data = data;
    this.picture = remembering((frame) => this.decode(data.pictures[frame]));
    this.features = Object.fromEntries(Object.entries(data.features).map(
      ([title, uris]) => [title, remembering((frame) => this.decode(uris[frame]))]));
    this.planes = data.runs.map((run) => remembering((frame) => unpack(run.planes[frame], run.kind, width)));
    this.confidence = data.runs.map((run) => run.confidence.length === 0 ? null : remembering(
      (frame) => unpack(run.confidence[frame], "u8", Math.max(1, Math.floor(width / 4)))));
  }

  get frames() { return this.data.positions.length; }

  decode(uri) {
    const [head, body] = uri.split(",");
    return createImageBitmap(new Blob([bytesOf(body)], { type: head.slice(5, head.indexOf(";")) }));
  }

  /** What lies under the labels: the picture, or features by their title. */
  base(frame, title) { return title in this.features ? this.features[title](frame) : this.picture(frame); }

  /** The position of a shown frame in the clip. */
  position(frame) { return this.data.positions[frame]; }

  /** The shown frame next to a position in the clip. */
  near(position) {
    const step = this.data.positions.length > 1 ? this.data.positions[1] - this.data.positions[0] : 1;
    return Math.max(0, Math.min(this.frames - 1, Math.round(position / step)));
  }

  /** For how long a frame is shown: its own time in a clip of a variable rate. */
  seconds(frame) { return this.data.seconds?.[frame] ?? this.data.step / this.data.fps; }

  name(frame) { return this.data.names[this.position(frame)]; }
}
