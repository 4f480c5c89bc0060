/* Reads what the page holds and ties its parts together. */

async function start() {
  if (typeof DecompressionStream === "undefined") {
    byId("trouble").hidden = false;
    return;
  }
  const data = JSON.parse(byId("data").textContent);
  const footage = new Footage(data), view = new View(data.opacity);
  const segments = data.runs.map((run) => new Segments(run));
  const stages = [...document.querySelectorAll(".stage")].map(
    (figure, number) => new Stage(figure, number, footage, segments[number]));
  const player = new Player(footage, stages, view);
  const single = data.runs.length === 1;
  const start = JSON.stringify(data.runs[0].start ?? null);
  const editor = single && data.runs[0].fits
    ? new Editor(segments[0], player, `vidseg-names ${data.runs[0].fits} ${start}`) : null;
  const chosen = (group, typing) => {
    player.select(group.key);
    if (editor && typing && view.selected === group.key) { editor.follow(); editor.focus(); }
  };
  const legends = [...document.querySelectorAll("ol.legend")].map(
    (list, number) => new Legend(list, segments[number], player, chosen, editor !== null));
  const timelines = [...document.querySelectorAll(".timeline")].map(
    (band, number) => new Timeline(band, data.runs[number], segments[number], player));
  connectControls(player);
  stages.forEach((stage) => connectPointer(stage, player, chosen));
  connectKeys(player, segments[0], () => editor?.focus());
  for (const link of document.querySelectorAll("[data-goto]")) {
    link.onclick = () => { player.pause(); player.show(footage.near(Number(link.dataset.goto))); };
  }
  player.listeners.push(() => {
    [...legends, ...timelines].forEach((part) => part.follow());
    editor?.follow();
  });
  segments.forEach((one, number) => one.listeners.push(() => {
    legends[number].draw();
    timelines[number].draw();
    player.refresh();
  }));
  [...legends, ...timelines].forEach((part) => part.draw());
  await player.show(0);
  document.body.dataset.ready = "yes";
}

start();
