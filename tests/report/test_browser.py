"""The page in a real browser: it plays, shows what labels.zarr holds, and names.json fits it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.media.video import write_video
from pipeline.naming.names import read_names
from pipeline.parameters import RenderParams
from pipeline.rendering.palette import overlay_colours
from pipeline.report.page import IndexRow, write_index
from pipeline.stores.numbering import Numbering
from pipeline.stores.schemas import LABELS
from pipeline.stores.store import open_store
from stages import render
from tests.support.browser import Browser, Tab, running
from tests.support.commands import vidseg, write_labels
from tests.support.scenes import Scene, label_maps

pytestmark = pytest.mark.browser

SIZE = (96, 160)
FRAMES = 6
ONE_STEP = ("diffusion.start_step=24", "upsample.modulate_step=24", "upsample.parity.blend_last_step=24")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def result(browser: Browser, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model, scored; nothing is computed where there is no browser."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 90, (SIZE[0], 260, 3), dtype=np.uint8)
    texture[:, 100:] += 120
    texture[60:, :, 0] += 40
    video = write_video(folder / "clip.mp4", [texture[:, 5 * i : 5 * i + SIZE[1]] for i in range(FRAMES)], 10.0)
    sets = [f"backbone.path={tiny_model}", "ingest.size=native", "segment.clusters=5", *ONE_STEP]
    truth = np.zeros((FRAMES, *SIZE), np.uint8)
    truth[:, 60:] = 1
    given = ("--ground-truth", write_labels(folder / "truth", truth))
    vidseg("run", video, "-o", folder / "out", *given, *[word for text in sets for word in ("--set", text)])
    return folder / "out"


@pytest.fixture
def tab(browser: Browser, result: Path) -> Iterator[Tab]:
    """The page as it is opened first: the browser keeps nothing of it."""
    found = browser.open(result / "report.html")
    found.run("localStorage.clear()")
    found.go(result / "report.html")
    yield found
    assert found.errors() == []
    assert found.requests() == []
    found.close()


def canvas(tab: Tab) -> np.ndarray:
    """What the first picture shows, (H, W, 3) u8, once it does not change any more."""
    before, now = "", _canvas(tab)
    while before != now:
        time.sleep(0.1)
        before, now = now, _canvas(tab)
    height, width = tab.run("(c => [c.height, c.width])(document.getElementById('stage'))")
    return np.frombuffer(base64.b64decode(now), np.uint8).reshape(height, width, 4)[..., :3]


def _canvas(tab: Tab) -> str:
    pixels: str = tab.run(
        "(c => { const copy = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true}); "
        "copy.drawImage(c, 0, 0); const d = copy.getImageData(0, 0, c.width, c.height).data; "
        "return btoa(Array.from(d, v => String.fromCharCode(v)).join('')); })(document.getElementById('stage'))"
    )
    return pixels


def labels_of(result: Path) -> np.ndarray:
    return open_store(result / "artifacts" / "labels.zarr", LABELS).read("labels")


def names(tab: Tab) -> list[str]:
    found: list[str] = tab.run("[...document.querySelectorAll('.legend .name')].map(e => e.textContent)")
    return found


def place_of(labels: np.ndarray, label: int) -> tuple[float, float]:
    """A part of the picture, across and down, well within a label."""
    inside = cv2.distanceTransform((labels == label).astype(np.uint8), cv2.DIST_L2, 5)
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    return (column + 0.5) / labels.shape[1], (row + 0.5) / labels.shape[0]


def value(tab: Tab, number: float, selector: str) -> None:
    """Put a slider to a value."""
    tab.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = {number}; "
        "e.dispatchEvent(new Event('input')); })()"
    )


def test_a_page_plays_shows_the_labels_and_names_them(tab: Tab, result: Path, browser: Browser) -> None:
    labels, colours = labels_of(result), overlay_colours()

    # At full opacity and without outlines, every pixel is its label's colour.
    value(tab, 1, "#opacity")
    tab.key("o")
    np.testing.assert_array_equal(canvas(tab), colours[labels[0]])
    tab.key("ArrowRight")
    np.testing.assert_array_equal(canvas(tab), colours[labels[1]])

    # Play and pause.
    tab.key("Home")
    tab.key(" ")
    tab.until("Number(document.getElementById('frame').value) >= 2")
    tab.key(" ")
    stopped = tab.run("document.getElementById('now').textContent")
    time.sleep(0.3)
    assert tab.run("document.getElementById('now').textContent") == stopped
    tab.key("End")
    tab.until(f"document.getElementById('now').textContent.endsWith('{FRAMES} / {FRAMES}')")

    # The time line is a slider that keys move.
    tab.run("document.querySelector('.timeline').focus()")
    said = "(e => [e.getAttribute('aria-valuenow'), e.getAttribute('aria-valuetext')])(document.activeElement)"
    for key, number in (("ArrowLeft", 5), ("Home", 1), ("ArrowRight", 2), ("ArrowUp", 6), ("End", 6)):
        tab.key(key)
        tab.until(f"{said}[0] === '{number}'")
    assert tab.run(said)[1].startswith(f"frame 6 of 6, 00005: label {np.bincount(labels[5].ravel()).argmax()} ")

    # The largest segment is hidden: the picture is seen there.
    tab.key("Home")
    ids = [int(name.split()[1]) for name in names(tab)]
    tab.click(".legend li .hide")
    shown = canvas(tab)
    hidden = labels[0] == ids[0]
    assert (shown[hidden] != colours[ids[0]]).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(shown[~hidden], colours[labels[0][~hidden]])
    tab.click(".legend li .hide")

    # A segment is clicked in the picture and named; another is merged into it; a third is left out.
    first, second, third = ids[:3]
    tab.click("#stage", *place_of(labels[0], first))
    tab.until("document.activeElement.id === 'name'")
    tab.write("wall <b>")
    tab.key("Enter")
    assert names(tab)[0] == "wall <b>"
    tab.key("Escape")
    tab.key("2")
    tab.until("!document.getElementById('editor').classList.contains('idle')")
    tab.run(f"document.getElementById('into').value = '{first}'")
    tab.click("#merge")
    tab.until(f"document.querySelectorAll('.legend li').length === {len(ids) - 1}")
    assert (canvas(tab)[labels[0] == second] == colours[first]).all()
    tab.run(f"document.querySelector('.legend li[data-key=\"{third}\"] .pick').click()")
    tab.click("#drop")
    tab.key("z", ctrl=True)
    tab.click("#drop")
    tab.until("document.querySelectorAll('.legend li.dropped').length === 1")

    # The names are kept over a reload, and names.json fits the run.
    opened = tab.run("performance.timeOrigin")
    end = time.monotonic() + 10
    while names(tab)[0] != "wall <b>" or tab.run("performance.timeOrigin") == opened:
        assert time.monotonic() < end, names(tab)
        tab.go(result / "report.html")  # what is kept reaches the next page a little later
    assert tab.run("document.querySelectorAll('.legend li.dropped').length") == 1
    tab.click("#save")
    saved = browser.downloads / "names.json"
    end = time.monotonic() + 10
    while not saved.exists() and time.monotonic() < end:
        time.sleep(0.05)
    file = read_names(saved)
    saved.unlink()
    store = open_store(result / "artifacts" / "labels.zarr", LABELS)
    found = file.names_for(Numbering.of_labels(store), "names.json")
    assert {label: said.name for label, said in found.named.items()} == {first: "wall <b>"}
    assert (found.merged, found.dropped) == ({second: first}, {third})


@pytest.mark.slow
def test_dragging_merges_and_colours_are_chosen(tab: Tab, result: Path) -> None:
    ids = [int(name.split()[1]) for name in names(tab)]
    # Chromium begins no drag for a mouse that the protocol moves: the events are made by hand.
    tab.run(
        "(() => { const [to, from] = document.querySelectorAll('.legend li'); const data = new DataTransfer(); "
        "const fire = (e, kind) => e.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, "
        "cancelable: true})); fire(from, 'dragstart'); fire(to, 'dragover'); fire(to, 'drop'); })()"
    )
    assert len(names(tab)) == len(ids) - 1
    assert names(tab)[0] == f"labels {ids[0]}, {ids[1]}" or set(names(tab)[0].split()[1:]) == {
        f"{ids[0]},",
        f"{ids[1]}",
    }
    tab.run("(e => { e.value = '#123456'; e.dispatchEvent(new Event('change')); })(document.getElementById('color'))")
    value(tab, 1, "#opacity")
    tab.key("o")
    merged = np.isin(labels_of(result)[0], ids[:2])
    assert (canvas(tab)[merged] == (0x12, 0x34, 0x56)).all()
    tab.click("#split")
    assert len(names(tab)) == len(ids)
    tab.click("#reset")
    assert [int(name.split()[1]) for name in names(tab)] == ids
    assert tab.run("localStorage.length") == 0


@pytest.mark.slow
def test_the_wipe_shows_the_picture_on_its_left(tab: Tab, result: Path) -> None:
    value(tab, 0, "#opacity")
    tab.key("o")
    plain = canvas(tab)
    value(tab, 1, "#opacity")
    tab.key("w")
    wiped, middle = canvas(tab), SIZE[1] // 2
    np.testing.assert_array_equal(wiped[:, : middle - 1], plain[:, : middle - 1])
    np.testing.assert_array_equal(wiped[:, middle + 1 :], overlay_colours()[labels_of(result)[0]][:, middle + 1 :])


@pytest.mark.slow
def test_everything_is_reached_and_told_with_the_keyboard(tab: Tab) -> None:
    reached = set()
    for _ in range(80):
        tab.key("Tab")
        found = tab.run(
            "(e => [e.tagName, e.id, e.className, e.getAttribute('aria-label') || e.textContent.trim() || "
            "(e.labels && e.labels[0] && e.labels[0].textContent) || ''])(document.activeElement)"
        )
        if found[0] == "BODY":
            break
        assert found[3], f"{found} says nothing"
        reached.add(found[1] or found[2].split()[0] if found[2] or found[1] else found[0])
    assert {
        "theme",
        "stage",
        "play",
        "frame",
        "opacity",
        "outlines",
        "timeline",
        "wipes",
        "base",
        "save",
        "pick",
        "hide",
    } <= reached


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_the_page_fits_and_can_be_read(browser: Browser, result: Path, width: int, dark: bool) -> None:
    """Nothing is wider than the window; every text has a contrast of 4.5 to what is behind it (WCAG AA)."""
    tab = browser.open(result / "report.html", width, 900, dark)
    assert tab.run("document.documentElement.scrollWidth") <= width
    low = json.loads(tab.run(CONTRASTS))
    assert low == []
    assert tab.run("[...document.images].every(i => i.alt)")
    tab.close()


#: JSON of the texts whose contrast is below 4.5, with it.
CONTRASTS = """
(() => {
  const probe = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgba = (text) => { probe.clearRect(0, 0, 1, 1); probe.fillStyle = text; probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data]; };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] > 250) return c; } return [255, 255, 255, 255]; };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("[disabled], option, script, style, svg, .skip")) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push([e.textContent.trim().slice(0, 40), (a + 0.05) / (b + 0.05)]);
  }
  return JSON.stringify(found);
})()
"""


@pytest.mark.slow
def test_labels_above_255_and_how_sure_they_are(browser: Browser, tmp_path: Path) -> None:
    labels = label_maps().astype(np.uint16)
    labels[labels == 3] = 700
    scene = Scene(tmp_path, labels=labels)
    confidence = np.where(labels == 700, 128, 255).astype(np.uint8)
    stores = scene.clip(scene.video_source()), scene.labels_store(confidence=confidence)
    page = render.run(*stores, tmp_path / "out", RenderParams(opacity=1.0)) / "report.html"
    tab = browser.open(page)
    tab.key("o")
    np.testing.assert_array_equal(canvas(tab), overlay_colours()[labels[0] % 256])
    for (x, y), told in (
        (place_of(labels[0], 700), "label 700 · 7.5 % of this frame · 50 % sure"),
        ((0.9, 0.9), "97 % sure"),
    ):
        tab.point(*tab.place("#stage", x, y))
        tab.until(f"document.querySelector('.stage .hint').textContent.endsWith('{told}')")
    tab.run("(e => { e.value = 0.6; e.oninput(); })(document.querySelector('#sure'))")
    tab.until("document.querySelector('#sure + output').textContent === '60 %'")
    cells = canvas(tab)[2::4, 2::4]  # confidence has a quarter of the size
    bright = cells.sum(axis=-1) > 0.5 * overlay_colours()[labels[0, 2::4, 2::4] % 256].sum(axis=-1)
    np.testing.assert_array_equal(bright, labels[0, 2::4, 2::4] != 700)
    assert (tab.errors(), tab.requests()) == ([], [])
    tab.close()


@pytest.mark.slow
def test_frames_of_a_variable_rate_are_shown_for_their_own_time(browser: Browser, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    stores = scene.clip(scene.video_source(), times=[0.0, 0.2, 1.2, 1.4, 1.6]), scene.labels_store()
    tab = browser.open(render.run(*stores, tmp_path / "out", RenderParams()) / "report.html")
    tab.run(
        "(now => { window.seen = []; new MutationObserver(() => { if (now.textContent !== window.seen.at(-1)?.[0]) "
        "window.seen.push([now.textContent, performance.now()]); }).observe(now, {childList: true}); })"
        "(document.querySelector('#now'))"
    )
    tab.key(" ")
    tab.until("window.seen.length > 8")
    tab.key(" ")
    seen = tab.run("window.seen")
    shown = [(text.split(" ")[0], after - before) for (text, before), (_, after) in pairwise(seen)]
    longest = {name for name, milliseconds in shown if milliseconds > 700}
    assert longest == {"00001"}, shown
    tab.close()


@pytest.mark.slow
def test_two_runs_play_in_step(browser: Browser, result: Path, tmp_path: Path) -> None:
    vidseg("report", "--compare", result, result, "-o", tmp_path / "both.html")
    tab = browser.open(tmp_path / "both.html")
    tab.key("ArrowRight")
    tab.key("1")
    tab.until("document.querySelectorAll('.legend li.selected').length === 2")
    same = "(c => c[0].toDataURL() === c[1].toDataURL())(document.querySelectorAll('canvas'))"
    tab.until(same)
    assert (tab.errors(), tab.requests()) == ([], [])
    tab.close()


@pytest.mark.slow
def test_an_index_is_sorted_by_a_click(browser: Browser, result: Path, tmp_path: Path) -> None:
    rows = [IndexRow(name, "x.html", None, {} if mark is None else {"mIoU": mark}) for name, mark in
            (("b2", 0.5), ("b10", None), ("a", 0.9))]  # fmt: skip
    tab = browser.open(write_index(tmp_path / "index.html", "all", rows))
    order = "[...document.querySelectorAll('#index tbody a')].map(e => e.textContent)"
    tab.click("#index th:nth-child(3) button")
    assert tab.run(order) == ["a", "b2", "b10"]
    tab.click("#index th:nth-child(3) button")
    assert tab.run(order) == ["b2", "a", "b10"]
    tab.click("#index th:nth-child(2) button")
    assert tab.run(order) == ["a", "b2", "b10"]
    assert (tab.errors(), tab.requests()) == ([], [])
    tab.close()
