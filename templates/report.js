// What moves on the page of a run: the metric, the charts, the pictures, the table, the theme.
// Texts go into the page as text alone; charts are evaluated by Vega's interpreter, so no code is made from strings.

const byId = (id) => document.getElementById(id);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const { rows, charts } = JSON.parse(byId("data").textContent);

// ---- Theme ----

function setUpTheme() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  system.addEventListener("change", name);
  name();
  button.hidden = false;
}

// ---- Charts ----

const CONFIG = {
  background: "transparent",
  font: "inherit",
  view: { stroke: null },
  axis: {
    labelColor: "var(--soft)", titleColor: "var(--soft)", gridColor: "var(--rule)", domainColor: "var(--rule)",
    tickColor: "var(--rule)", labelFontSize: 12, titleFontSize: 12.5, titleFontWeight: "normal", titlePadding: 10,
    labelPadding: 6, labelOverlap: "greedy", labelSeparation: 8,
  },
  axisX: { grid: false },
  axisY: { domain: false, ticks: false, tickCount: 6 },
};
const ROOM_FOR_NAMES = 480;
const state = { hidden: new Set(), lifted: -1, views: {} };

function tooltip() {
  const box = document.createElement("div");
  box.className = "tip";
  box.hidden = true;
  document.body.append(box);
  return (_handler, event, _item, value) => {
    box.hidden = value === null || value === undefined || value === "";
    if (box.hidden) return;
    box.textContent = value;
    const { width, height } = box.getBoundingClientRect();
    const right = event.clientX + 14 + width > innerWidth;
    box.style.left = `${Math.max(8, right ? event.clientX - width - 14 : event.clientX + 14)}px`;
    box.style.top = `${Math.max(8, Math.min(event.clientY + 14, innerHeight - height - 8))}px`;
  };
}

function setUpCharts() {
  const tip = tooltip();
  const metric = () => document.querySelector("input[name=metric]:checked").value;

  async function draw(id, spec) {
    const place = byId(id);
    state.views[id]?.finalize();
    delete state.views[id];
    place.hidden = !spec;
    if (!spec) return;
    const inner = document.createElement("div");
    inner.setAttribute("aria-hidden", "true");
    inner.style.width = "100%";
    place.replaceChildren(inner);
    place.setAttribute("aria-label", `Chart: ${spec.description}`);
    const layers = spec.layer.filter((layer) => place.clientWidth >= ROOM_FOR_NAMES || layer.mark.type !== "text");
    const whole = { ...spec, layer: layers, datasets: { rows: structuredClone(rows) }, config: CONFIG };
    const made = await vegaEmbed(inner, whole, {
      ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: tip, mode: "vega-lite",
    });
    state.views[id] = made;
    tell(made.view);
    await made.view.runAsync();
  }

  function tell(view) {
    view.signal("hidden", [...state.hidden]).signal("lifted", state.lifted);
  }

  function retell() {
    for (const { view } of Object.values(state.views)) {
      tell(view);
      view.runAsync();
    }
  }

  function show() {
    const chosen = metric();
    for (const part of all(".of-metric")) part.hidden = part.dataset.metric !== chosen;
    return Promise.all([draw("curve", charts[chosen][byId("axis").value]), draw("pareto", charts[chosen].front)]);
  }

  const buttons = all(".legend [data-series]");
  function press(button, isShown) {
    button.setAttribute("aria-pressed", String(isShown));
    state.hidden[isShown ? "delete" : "add"](Number(button.dataset.series));
  }
  function lift(series) {
    state.lifted = state.hidden.has(series) ? -1 : series;
    retell();
  }
  for (const button of buttons) {
    const series = Number(button.dataset.series);
    button.addEventListener("click", () => {
      press(button, state.hidden.has(series));
      lift(series);
    });
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => lift(series));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => lift(-1));
  }
  byId("all")?.addEventListener("click", () => {
    const isShown = state.hidden.size > 0;
    for (const button of buttons) press(button, isShown);
    retell();
  });
  for (const input of all("input[name=metric]")) input.addEventListener("change", show);
  byId("axis").addEventListener("change", show);
  return show();
}

// ---- Pictures ----

function setUpPictures() {
  const groups = all(".sheets[data-budget]");
  const slider = byId("budget");
  function show() {
    const group = groups[slider.value];
    for (const other of groups) other.hidden = other !== group;
    const text = byId("budgets").options[slider.value].label;
    byId("budget-shown").textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }
  slider?.addEventListener("input", show);
  if (slider) show();
}

/** Left less right in colour: orange where the left is brighter, blue where the right is. */
function paintDifference(left, right, canvas) {
  const width = Math.min(left.naturalWidth, right.naturalWidth);
  const height = Math.min(left.naturalHeight, right.naturalHeight);
  const [a, b] = [left, right].map((image) => {
    const sheet = new OffscreenCanvas(width, height).getContext("2d");
    sheet.drawImage(image, 0, 0);
    return sheet.getImageData(0, 0, width, height).data;
  });
  const painted = new ImageData(width, height);
  let squares = 0;
  let largest = 0;
  for (let i = 0; i < a.length; i += 4) {
    let difference = 0;
    for (let c = 0; c < 3; c += 1) {
      const d = a[i + c] - b[i + c];
      difference += d / 3;
      squares += d * d;
      largest = Math.max(largest, Math.abs(d));
    }
    painted.data.set(difference > 0 ? [213, 94, 0] : [0, 114, 178], i);
    painted.data[i + 3] = Math.min(255, Math.abs(difference) * 1.5);
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(painted, 0, 0);
  return { rms: Math.sqrt(squares / (a.length * 0.75)), largest };
}

function setUpComparison() {
  const [left, right] = ["left", "right"].map(byId);
  if (!left || left.options.length < 2) return undefined;
  byId("compare").hidden = false;
  const sheets = Object.fromEntries(all("img[data-row]").map((image) => [image.dataset.row, image]));

  async function show() {
    const images = [left, right].map((select) => {
      const shown = byId(`${select.id}-sheet`);
      const sheet = sheets[select.value];
      shown.src = sheet.src;
      shown.alt = sheet.alt;
      shown.closest("figure").querySelector("figcaption").textContent = select.selectedOptions[0].textContent;
      return shown;
    });
    await Promise.all(images.map((image) => image.decode()));
    const { rms, largest } = paintDifference(...images, byId("difference"));
    const text = largest === 0
      ? "The images shown are the same, byte for byte."
      : `Root mean square difference ${rms.toFixed(1)} of 255 grey levels, largest ${largest}.`;
    byId("difference").setAttribute("aria-label", `Difference, left less right. ${text}`);
    byId("difference-text").textContent = text;
  }

  // To begin with: the sheet that the slider shows first, and the next sampler's beside it.
  const first = all(".sheets[data-budget]:not([hidden]) img").map((image) => image.dataset.row);
  const order = [...first, ...Object.keys(sheets)];
  left.value = order[0];
  right.value = order.find((row) => row !== order[0]);
  left.addEventListener("change", show);
  right.addEventListener("change", show);
  return show();
}

// ---- Table ----

/** A cell's text as what it is sorted by: the number that it begins with, else the text. */
function sortKey(text) {
  const number = parseFloat(text);
  return Number.isNaN(number) ? text : number;
}

function compareKeys(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}

function setUpTable() {
  const table = byId("numbers");
  const body = table.tBodies[0];
  const lines = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const steps = byId("steps");
  const stepsColumn = headings.findIndex((cell) => cell.textContent.trim() === "steps");
  const counts = new Set(lines.map((line) => line.cells[stepsColumn].textContent.trim()));
  for (const count of [...counts].sort((a, b) => a - b)) steps.add(new Option(count, count));

  function sortBy(column) {
    const isUp = headings[column].getAttribute("aria-sort") !== "ascending";
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[column].setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const keyed = lines.map((line, i) => ({ line, i, key: sortKey(line.cells[column].textContent.trim()) }));
    const isAbsent = ({ key }) => key === "-" || key === "";
    keyed.sort((a, b) =>
      isAbsent(a) - isAbsent(b) || (isUp ? 1 : -1) * compareKeys(a.key, b.key) || a.i - b.i);
    body.append(...keyed.map(({ line }) => line));
  }
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => sortBy(column)));

  function filter() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of lines) {
      const text = line.textContent.toLowerCase();
      const isCount = !steps.value || line.cells[stepsColumn].textContent.trim() === steps.value;
      line.hidden = !(isCount && words.every((word) => text.includes(word)));
    }
    byId("shown").textContent = `${lines.filter((line) => !line.hidden).length} of ${lines.length} rows`;
  }
  byId("filter").addEventListener("input", filter);
  steps.addEventListener("change", filter);
  filter();
  byId("filters").hidden = false;
}

function setUpCopy() {
  const button = byId("copy");
  if (!button || !navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(byId("command").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

setUpTheme();
setUpTable();
setUpCopy();
setUpPictures();
await Promise.all([setUpComparison(), byId("curve") ? setUpCharts() : undefined]);
document.documentElement.dataset.ready = "true";
