/* Picture viewer: two pictures compared with a slider, and their difference beside them; zoom and pan are shared. */
"use strict";

const viewer = (() => {
  const EQUAL = 0, NOT_FINITE = 255; // as in encoding.py
  const LEAST_PIXELS = 8; // pixels of the picture across the pane at the largest zoom
  const byId = (id) => document.getElementById(id);
  const root = byId("viewer");
  if (!root) return null;

  const compare = byId("compare"), difference = byId("difference"), handle = byId("handle");
  const panes = [compare, difference];
  const layers = { left: byId("left-picture"), right: byId("right-picture"), difference: byId("difference-picture") };
  const choices = { left: byId("left"), right: byId("right") };
  const titles = { "equal": "All values are equal" };

  let image = null; // the image that is shown, from page.py
  let candidate = 0, bits = 8, decades = 8;
  let view = { scale: 1, x: 0, y: 0 }; // screen pixels per output pixel, and the position of the corner in the pane
  let fitted = true, slider = 0.5, codes = null, latest = 0;

  /* --- Pictures: base64 in the page, decoded only when shown --- */

  function decoded(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    const text = atob(base64), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  const urls = new Map();
  function url(picture) {
    if (!urls.has(picture.id)) {
      const bytes = decoded(byId(picture.id).firstChild.data);
      urls.set(picture.id, URL.createObjectURL(new Blob([bytes], { type: "image/png" })));
    }
    return urls.get(picture.id);
  }

  async function put(element, picture, alt) {
    const source = url(picture);
    element.alt = alt;
    // In output pixels: an input may be smaller than the output, and a measurement larger.
    element.style.width = `${picture.width * picture.scale}px`;
    element.style.height = `${picture.height * picture.scale}px`;
    if (element.src !== source) {
      element.src = source;
      await element.decode().catch(() => {}); // replaced by another picture meanwhile
    }
  }

  /** Return a picture's samples. */
  async function samples(picture) {
    const loaded = new Image();
    loaded.src = url(picture);
    await loaded.decode();
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(loaded, 0, 0);
    const rgba = context.getImageData(0, 0, picture.width, picture.height).data;
    const grey = new Uint8Array(rgba.length / 4);
    for (let i = 0; i < grey.length; i++) grey[i] = rgba[4 * i];
    return grey;
  }

  /* --- Colours of the difference --- */

  /** Convert a code to steps of the output's samples; see `logarithmic` in encoding.py. */
  const steps = (code) => (2 ** bits - 1) * 10 ** (((code - 1) / 253 - 1) * decades);

  /** Return the lowest and the highest code of the colour scale. */
  function extent() {
    if (byId("colours").value === "absolute" || codes === null) return [1, 254];
    const counts = new Uint32Array(256);
    for (const code of codes) counts[code]++;
    const total = d3.sum(counts.slice(1, 255));
    let low = 1, high = 254;
    for (let sum = counts[1]; sum < total * 0.001 && low < 253; ) sum += counts[++low];
    for (let sum = counts[254]; sum < total * 0.0001 && high > low + 1; ) sum += counts[--high];
    return total ? [low, Math.max(high, low + 12)] : [1, 254];
  }

  function palette([low, high]) {
    const colours = new Uint32Array(256);
    const view = new DataView(colours.buffer);
    const set = (code, colour) => {
      const { r, g, b } = d3.rgb(colour);
      view.setUint32(4 * code, ((Math.round(r) << 24) | (Math.round(g) << 16) | (Math.round(b) << 8) | 255) >>> 0);
    };
    for (let code = 1; code < 255; code++) set(code, ramp(Math.min(Math.max((code - low) / (high - low), 0), 1)));
    set(EQUAL, "#8b8f94");
    set(NOT_FINITE, "#00e5ff");
    return colours;
  }

  const ramp = (share) => d3.interpolateInferno(0.06 + 0.94 * share);

  function paint() {
    const picture = image.pictures[`difference-${candidate}`];
    const canvas = layers.difference;
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.style.width = `${picture.width}px`;
    canvas.style.height = `${picture.height}px`;
    const range = extent(), colours = palette(range);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const pixels = context.createImageData(picture.width, picture.height);
    const words = new Uint32Array(pixels.data.buffer);
    let apart = false;
    for (let i = 0; i < codes.length; i++) {
      words[i] = colours[codes[i]];
      apart ||= codes[i] !== EQUAL;
    }
    context.putImageData(pixels, 0, 0);
    const note = difference.querySelector(".empty");
    note.hidden = apart;
    note.textContent = titles.equal;
    legend(range);
  }

  function legend([low, high]) {
    const box = byId("legend");
    const place = (value) => ((1 + 253 * (1 + Math.log10(value / (2 ** bits - 1)) / decades)) - low) / (high - low);
    const stops = d3.range(0, 1.0001, 1 / 16).map((share) => ramp(share));
    const marks = d3.range(-8, 6).map((exponent) => 10 ** exponent).filter((value) => place(value) >= 0 && place(value) <= 1);
    const every = Math.ceil(marks.length / 7);
    box.innerHTML = "";
    const scale = document.createElement("div");
    scale.className = "scale";
    scale.setAttribute("role", "img");
    scale.setAttribute("aria-label", `Colours from ${charts.power(steps(low))} to ${charts.power(steps(high))} steps of ${bits} bits, on a logarithmic scale`);
    scale.style.setProperty("--ramp", `linear-gradient(to right, ${stops.join(", ")})`);
    const anchor = marks.indexOf(1);
    marks.forEach((value, index) => {
      if ((index - Math.max(anchor, 0)) % every) return;
      const tick = scale.appendChild(document.createElement("span"));
      tick.style.left = `${100 * place(value)}%`;
      tick.textContent = charts.power(value);
    });
    const unit = document.createElement("p");
    unit.append(`steps of ${bits} bits`);
    for (const [name, label] of [["equal", "equal"], ["nan", "NaN or infinite"]]) {
      if (name === "nan" && !codes.includes(NOT_FINITE)) continue;
      const key = unit.appendChild(document.createElement("span"));
      key.className = `key ${name}`;
      key.textContent = label;
    }
    box.append(scale, unit);
  }

  /* --- Layout --- */

  const size = () => ({ width: compare.clientWidth, height: compare.clientHeight });
  const fit = () => Math.min(size().width / image.width, size().height / image.height);
  const most = () => Math.max(size().width / LEAST_PIXELS, fit());

  function place() {
    const { width, height } = size(), least = fit();
    if (!width) return; // not visible
    if (fitted || view.scale < least) view.scale = least;
    view.scale = Math.min(view.scale, most());
    fitted = view.scale <= least * 1.0001;
    const inside = (position, room, length) => (length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, position)));
    view.x = inside(view.x, width, image.width * view.scale);
    view.y = inside(view.y, height, image.height * view.scale);
    const crisp = view.scale * devicePixelRatio >= 2;
    for (const element of Object.values(layers)) {
      element.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
      element.style.imageRendering = crisp ? "pixelated" : "auto";
    }
    for (const grid of root.querySelectorAll(".grid g")) grid.setAttribute("transform", `translate(${view.x} ${view.y}) scale(${view.scale})`);
    for (const pane of panes) pane.classList.toggle("zoomed", !fitted);
    const percent = 100 * view.scale;
    byId("zoom").textContent = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
    divide();
  }

  /** Place the divider within the visible part of the picture. */
  function divide() {
    const { width } = size();
    const left = Math.max(0, view.x), right = Math.min(width, view.x + image.width * view.scale);
    const x = left + slider * (right - left);
    byId("left-layer").style.clipPath = `inset(0 ${width - x}px 0 0)`;
    handle.style.left = `${x}px`;
    const percent = Math.round(100 * slider);
    handle.setAttribute("aria-valuenow", percent);
    handle.setAttribute("aria-valuetext", `${percent} % ${choices.left.selectedOptions[0]?.text ?? ""}`);
  }

  function slide(share) {
    slider = Math.min(1, Math.max(0, share));
    divide();
  }

  function slideTo(clientX) {
    const box = compare.getBoundingClientRect();
    const left = Math.max(0, view.x), right = Math.min(box.width, view.x + image.width * view.scale);
    slide((clientX - box.left - compare.clientLeft - left) / (right - left));
  }

  /** Change the scale around the point (x, y) of the pane. */
  function zoom(factor, x = size().width / 2, y = size().height / 2) {
    const scale = Math.min(most(), Math.max(fit(), view.scale * factor));
    view = { scale, x: x - ((x - view.x) * scale) / view.scale, y: y - ((y - view.y) * scale) / view.scale };
    fitted = false;
    place();
  }

  function showAll() {
    fitted = true;
    place();
  }

  const pixelForPixel = (x, y) => zoom(1 / devicePixelRatio / view.scale, x, y);

  function pan(dx, dy) {
    view.x += dx;
    view.y += dy;
    place();
  }

  /* --- Tiles --- */

  function grid() {
    const tiles = image.tiles, on = byId("tiles").getAttribute("aria-pressed") === "true";
    const several = tiles && tiles.rows.origins.length * tiles.columns.origins.length > 1;
    byId("tiles").hidden = !several;
    for (const svg of root.querySelectorAll(".grid")) {
      svg.style.display = several && on ? "" : "none";
      const group = svg.firstElementChild;
      group.replaceChildren();
      if (!several) continue;
      const add = (name, x, y, width, height) => {
        const [left, top] = [Math.max(0, x - image.left), Math.max(0, y - image.top)];
        const right = Math.min(image.width, x + width - image.left), bottom = Math.min(image.height, y + height - image.top);
        if (right <= left || bottom <= top) return;
        const rect = group.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
        rect.setAttribute("class", name);
        Object.entries({ x: left, y: top, width: right - left, height: bottom - top }).forEach(([key, value]) => rect.setAttribute(key, value));
      };
      const { rows, columns } = tiles;
      const far = 1e9;
      rows.origins.slice(1).forEach((origin, i) => add("seam", 0, origin, far, rows.origins[i] + rows.tile - origin));
      columns.origins.slice(1).forEach((origin, i) => add("seam", origin, 0, columns.origins[i] + columns.tile - origin, far));
      for (const y of rows.origins) for (const x of columns.origins) add("tile", x, y, columns.tile, rows.tile);
    }
    const note = byId("tiles-note");
    note.hidden = !several;
    if (!several) return;
    const ratio = tiles.seams[candidate];
    const { rows, columns } = tiles;
    note.textContent = `${rows.origins.length} × ${columns.origins.length} tiles of ${columns.tile} × ${rows.tile} pixels; shaded where they overlap and are blended. ` +
      (ratio === null ? "The difference is not finite, so seams cannot be measured."
        : `At the tile borders the difference changes ${ratio.toFixed(2)} times as much as elsewhere${ratio > 1.5 ? ": there are seams." : "."}`);
  }

  /* --- Value under the pointer --- */

  function point(pane, event) {
    const box = pane.getBoundingClientRect();
    const px = event.clientX - box.left - pane.clientLeft, py = event.clientY - box.top - pane.clientTop;
    const x = Math.floor((px - view.x) / view.scale), y = Math.floor((py - view.y) / view.scale);
    const inside = x >= 0 && y >= 0 && x < image.width && y < image.height;
    for (const other of panes) {
      const cross = other.querySelector(".cross");
      cross.style.display = inside && other !== pane ? "block" : "none";
      cross.style.transform = `translate(${px}px, ${py}px)`;
    }
    if (!inside || codes === null) return leave();
    const code = codes[y * image.width + x];
    const value = code === EQUAL ? "equal" : code === NOT_FINITE ? "not finite" : `${charts.power(Number(steps(code).toPrecision(2)))} steps of ${bits} bits`;
    byId("readout").textContent = `x ${x + image.left}, y ${y + image.top}: ${value}`;
    return undefined;
  }

  function leave() {
    for (const cross of root.querySelectorAll(".cross")) cross.style.display = "none";
    byId("readout").textContent = "\u00a0";
  }

  /* --- Pointer, wheel and keyboard --- */

  function follow(pane) {
    const pointers = new Map();
    let sliding = false;
    const local = ({ clientX, clientY }) => {
      const box = pane.getBoundingClientRect();
      return [clientX - box.left - pane.clientLeft, clientY - box.top - pane.clientTop];
    };
    pane.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pointers.set(event.pointerId, local(event));
      pane.setPointerCapture(event.pointerId);
      // When the whole picture is visible, dragging moves the slider.
      sliding = pane === compare && pointers.size === 1 && (handle.contains(event.target) || fitted);
      if (sliding) slideTo(event.clientX);
      (handle.contains(event.target) ? handle : pane).focus({ preventScroll: true });
      event.preventDefault();
    });
    pane.addEventListener("pointermove", (event) => {
      point(pane, event);
      if (!pointers.has(event.pointerId)) return;
      const before = pointers.get(event.pointerId), now = local(event);
      pointers.set(event.pointerId, now);
      if (pointers.size === 2) {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const spread = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
        pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
        zoom(spread(now, other) / Math.max(spread(before, other), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (sliding) slideTo(event.clientX);
      else pan(now[0] - before[0], now[1] - before[1]);
    });
    const up = (event) => {
      pointers.delete(event.pointerId);
      sliding = false;
    };
    pane.addEventListener("pointerup", up);
    pane.addEventListener("pointercancel", up);
    pane.addEventListener("pointerleave", leave);
    pane.addEventListener("dblclick", (event) => (fitted ? pixelForPixel(...local(event)) : showAll()));
    pane.addEventListener("wheel", (event) => {
      // Let the page scroll unless the pane was clicked.
      if (!event.ctrlKey && !event.metaKey && !pane.contains(document.activeElement)) {
        pane.classList.add("hinting");
        setTimeout(() => pane.classList.remove("hinting"), 1200);
        return;
      }
      if (event.deltaY > 0 && fitted && !event.ctrlKey) return;
      event.preventDefault();
      const unit = event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 200 : 1;
      zoom(2 ** (-(event.deltaY * unit) / (event.ctrlKey ? 80 : 240)), ...local(event));
    }, { passive: false });
    pane.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const step = Math.round(size().width / 10);
      const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (event.key in moves) pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-") zoom(1 / 1.5);
      else if (event.key === "0") showAll();
      else if (event.key === "1") pixelForPixel();
      else return;
      event.preventDefault();
    });
  }

  panes.forEach(follow);
  handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.01;
    const moves = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
    if (!(event.key in moves)) return;
    slide(slider + moves[event.key]);
    event.preventDefault();
    event.stopPropagation();
  });
  byId("zoom-in").addEventListener("click", () => zoom(1.5));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("fit").addEventListener("click", showAll);
  byId("pixels").addEventListener("click", () => pixelForPixel());
  byId("colours").addEventListener("change", () => codes && paint());
  byId("tiles").addEventListener("click", ({ currentTarget: button }) => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "false");
    grid();
  });
  for (const side of ["left", "right"]) choices[side].addEventListener("change", () => pictures());
  new ResizeObserver(() => image && place()).observe(compare);

  /* --- Selection --- */

  /** Show the two selected pictures. */
  async function pictures() {
    for (const side of ["left", "right"]) byId(`${side}-name`).textContent = choices[side].selectedOptions[0].text;
    divide();
    await Promise.all(["left", "right"].map((side) => put(layers[side], image.pictures[choices[side].value], choices[side].selectedOptions[0].text)));
  }

  function fill(select, fallback, replaced) {
    const wanted = select.value && !replaced.test(select.value) ? select.value : fallback;
    const keys = Object.keys(image.pictures).filter((key) => !key.startsWith("difference-"));
    select.replaceChildren(...keys.map((key) => {
      const { title } = image.pictures[key], kind = key.split("-")[0];
      const named = kind === "candidate" || kind === "reference" ? `${kind}: ${title.replace(/^.*[\\/]/, "")}` : title;
      return new Option(named, key);
    }));
    select.value = keys.includes(wanted) ? wanted : fallback;
  }

  /** Show an image of one candidate; resolves when its pictures are loaded. */
  async function show(shown, number, settings) {
    const turn = ++latest;
    if (image !== shown) fitted = true;
    image = shown;
    candidate = number;
    ({ bits, decades } = settings);
    for (const pane of panes) pane.style.setProperty("--aspect", `${image.width} / ${image.height}`);
    fill(choices.left, `candidate-${candidate}`, /^candidate-/);
    fill(choices.right, "reference", /^$/);
    codes = null;
    place();
    grid();
    const [read] = await Promise.all([samples(image.pictures[`difference-${candidate}`]), pictures()]);
    if (turn !== latest) return;
    codes = read;
    paint();
    place();
    root.dataset.ready = `${image.name} ${candidate}`;
  }

  return { show };
})();
