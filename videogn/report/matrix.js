"use strict";
// The confusion matrix: rows are true classes, columns predicted ones.

function confusionMatrix(data) {
  const box = document.getElementById("matrix");
  const canvas = box.querySelector("canvas");
  const tip = document.getElementById("matrix-tip");
  const control = (name) => document.getElementById(`matrix-${name}`);
  const context = canvas.getContext("2d");
  const total = data.names.length;
  const colours = data.colours.match(/.{6}/g).map((hex) => `#${hex}`);
  const runs = data.runs.map(({ name, cells }) => {
    const run = { name, counts: new Map(), videos: new Array(total).fill(0), cells: [] };
    for (let i = 0; i < cells.length; i += 3) {
      const [label, taken, count] = cells.slice(i, i + 3);
      run.counts.set(label * total + taken, count);
      run.videos[label] += count;
      run.cells.push([label, taken, count]);
    }
    run.cells.sort((a, b) => a[2] / run.videos[a[0]] - b[2] / run.videos[b[0]]); // the strongest are painted last
    return run;
  });

  let run = runs[0];
  let shown = []; // classes, in the order in which they are shown
  let place = []; // of each class in `shown`, or -1
  let view = { x: 0, y: 0, cell: 1 }; // first column and row in sight, in classes; size of a cell in pixels
  let plot = { left: 0, top: 0, side: 1 };
  let cursor = null; // [row, column]
  const count = (label, taken, of = run) => of.counts.get(label * total + taken) ?? 0;
  const accuracy = (label) => (run.videos[label] ? count(label, label) / run.videos[label] : 2);

  function choose() {
    run = runs[control("run").selectedIndex] ?? runs[0];
    const wanted = control("filter").value.trim().toLowerCase();
    const matching = data.names.map((name) => name.toLowerCase().includes(wanted));
    const kept = matching.slice();
    if (wanted && control("near").checked) {
      for (const [label, taken] of run.cells) if (matching[label] || matching[taken]) kept[label] = kept[taken] = true;
    }
    const classes = [...data.names.keys()];
    const order = {
      clustered: () => data.clustered,
      name: () => classes.sort((a, b) => data.names[a].localeCompare(data.names[b], "en", { numeric: true })),
      accuracy: () => classes.sort((a, b) => accuracy(a) - accuracy(b)),
      number: () => classes,
    }[control("order").value]();
    shown = order.filter((c) => kept[c]);
    place = new Array(total).fill(-1);
    shown.forEach((c, i) => (place[c] = i));
    control("shown").textContent = wanted ? `${shown.length} of ${total} classes` : "";
    cursor = null;
    tell();
    whole();
  }

  const smallest = () => plot.side / Math.max(shown.length, 1);

  function whole() {
    measure();
    view = { x: 0, y: 0, cell: smallest() };
    draw();
  }

  function zoom(factor, x = plot.side / 2, y = plot.side / 2) {
    const cell = Math.min(Math.max(view.cell * factor, smallest()), Math.max(40, smallest()));
    view = { x: view.x + x / view.cell - x / cell, y: view.y + y / view.cell - y / cell, cell };
    clamp();
    draw();
  }

  function clamp() {
    const most = Math.max(shown.length - plot.side / view.cell, 0);
    view.x = Math.min(Math.max(view.x, 0), most);
    view.y = Math.min(Math.max(view.y, 0), most);
  }

  function measure() {
    const width = canvas.clientWidth;
    const margin = width < 560 ? 76 : 150;
    const room = Math.max(window.innerHeight - margin - 40, 400); // all of it on one screen, where that is not tiny
    plot = { left: margin, top: 22, side: Math.max(Math.min(width - margin - 4, room, 64 * total), 50) };
    const height = plot.top + plot.side + margin;
    const dots = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    context.setTransform(dots, 0, 0, dots, 0, 0);
  }

  function draw() {
    const { left, top, side } = plot;
    const { cell } = view;
    const x = (column) => left + (column - view.x) * cell;
    const y = (row) => top + (row - view.y) * cell;
    const end = Math.min(side, shown.length * cell);
    const ink = getComputedStyle(canvas).color;
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.save();
    context.beginPath();
    context.rect(left, top, end, end);
    context.clip();
    context.fillStyle = colours[0];
    context.fillRect(left, top, end, end);
    const dot = Math.max(cell - (cell > 8 ? 1 : 0), 1);
    const size = Math.min(cell * 0.4, 14);
    Object.assign(context, { font: `${size}px sans-serif`, textAlign: "center", textBaseline: "middle" });
    for (const [label, taken, videos] of run.cells) {
      const [row, column] = [place[label], place[taken]];
      if (row < 0 || column < 0) continue;
      if (x(column) > left + end || y(row) > top + end || x(column + 1) < left || y(row + 1) < top) continue;
      const shade = Math.round(255 * Math.sqrt(videos / run.videos[label]));
      context.fillStyle = colours[shade];
      context.fillRect(x(column), y(row), dot, dot);
      if (cell >= 22) {
        context.fillStyle = shade > 140 ? "#000" : "#fff";
        context.fillText(String(videos), x(column + 0.5), y(row + 0.5));
      }
    }
    if (cursor) {
      const [row, column] = cursor;
      context.strokeStyle = "rgba(255,255,255,.55)";
      context.lineWidth = 1;
      context.strokeRect(left - 2, y(row) - 0.5, end + 4, Math.max(cell, 2) + 1);
      context.strokeRect(x(column) - 0.5, top - 2, Math.max(cell, 2) + 1, end + 4);
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.strokeRect(x(column) - 2, y(row) - 2, Math.max(cell, 2) + 4, Math.max(cell, 2) + 4);
    }
    context.restore();
    labels(x, y, end, ink);
    canvas.classList.toggle("zoomed", cell > smallest() * 1.001);
  }

  function labels(x, y, end, ink) {
    const { left, top } = plot;
    const step = Math.max(1, Math.ceil(12 / view.cell)); // every class has a name where there is room, else every n-th
    const room = left - 10;
    Object.assign(context, { fillStyle: ink, font: "11px sans-serif", textBaseline: "middle", textAlign: "right" });
    const short = (whole) => {
      const name = whole.slice(0, 60); // measuring takes time
      if (context.measureText(name).width <= room) return name;
      let length = name.length;
      while (length > 1 && context.measureText(`${name.slice(0, length)}…`).width > room) length -= 1;
      return `${name.slice(0, length)}…`;
    };
    const inside = (at, from) => at >= from - 0.01 && at <= from + end + 0.01;
    for (let i = 0; i < shown.length; i += step) {
      const name = data.names[shown[i]];
      if (inside(y(i + 0.5), top)) {
        context.fillText(short(name), left - 6, y(i + 0.5));
      }
      if (inside(x(i + 0.5), left)) {
        context.save();
        context.translate(x(i + 0.5), top + end + 6);
        context.rotate(-Math.PI / 2);
        context.fillText(short(name), 0, 0);
        context.restore();
      }
    }
    Object.assign(context, { font: "bold 12px sans-serif", textAlign: "left" });
    context.fillText("true class ↓   predicted class →", left, 10);
  }

  function tell() {
    if (!cursor) {
      const empty = "No class has this text in its name.";
      tip.textContent = shown.length ? "Point at a cell, or focus the matrix and use the arrow keys." : empty;
      return;
    }
    const [label, taken] = cursor.map((i) => shown[i]);
    const parts = runs.map((of) => {
      const [here, videos] = [count(label, taken, of), of.videos[label]];
      return `${of.name}: ${here} of ${videos} videos${videos ? ` (${(100 * here / videos).toFixed(1)} %)` : ""}`;
    });
    const lines = [`true: ${data.names[label]}`, `predicted: ${data.names[taken]}`, ...parts];
    tip.replaceChildren(...lines.flatMap((line) => [line, document.createElement("br")]));
  }

  function select(row, column) {
    const bound = (i) => Math.min(Math.max(i, 0), shown.length - 1);
    cursor = shown.length ? [bound(row), bound(column)] : null;
    tell();
  }

  const inPlot = (event) => {
    const area = canvas.getBoundingClientRect();
    return [event.clientX - area.left - plot.left, event.clientY - area.top - plot.top];
  };

  // The cell under a pointer; where cells are small, the nearest one with videos in it, so that it can be hit.
  function at(event) {
    const [x, y] = inPlot(event);
    const column = x / view.cell + view.x;
    const row = y / view.cell + view.y;
    if (row < 0 || column < 0 || row >= shown.length || column >= shown.length) return null;
    const here = [Math.floor(row), Math.floor(column)];
    if (view.cell >= 8 || count(shown[here[0]], shown[here[1]])) return here;
    const reach = Math.ceil(4 / view.cell);
    let [best, nearest] = [here, Infinity];
    for (let r = here[0] - reach; r <= here[0] + reach; r += 1) {
      for (let c = here[1] - reach; c <= here[1] + reach; c += 1) {
        const distance = Math.hypot(r + 0.5 - row, c + 0.5 - column);
        if (distance < nearest && shown[r] !== undefined && shown[c] !== undefined && count(shown[r], shown[c])) {
          [best, nearest] = [[r, c], distance];
        }
      }
    }
    return best;
  }

  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    drag = { x: event.clientX, y: event.clientY, from: { ...view } };
    canvas.setPointerCapture(event.pointerId);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (drag = null));
  canvas.addEventListener("pointermove", (event) => {
    if (drag && canvas.classList.contains("zoomed")) {
      view.x = drag.from.x - (event.clientX - drag.x) / view.cell;
      view.y = drag.from.y - (event.clientY - drag.y) / view.cell;
      clamp();
    } else {
      const found = at(event);
      if (found) select(...found);
    }
    draw();
  });
  canvas.addEventListener("click", (event) => {
    const found = at(event);
    if (found) select(...found);
    draw();
  });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...inPlot(event)));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return; // a page that is scrolled past stays a page
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...inPlot(event));
  }, { passive: false });

  function jump(rows, columns) {
    let [row, column] = cursor;
    do {
      row += rows;
      column += columns;
      if (shown[row] === undefined || shown[column] === undefined) return;
    } while (!count(shown[row], shown[column]));
    select(row, column);
  }

  const steps = {
    ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-10, 0], PageDown: [10, 0],
  };
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") zoom(1.5, ...centre());
    else if (event.key === "-") zoom(1 / 1.5, ...centre());
    else if (event.key === "0") whole();
    else if (!shown.length) return;
    else if (event.key === "Home") select(0, 0);
    else if (event.key === "End") select(shown.length - 1, shown.length - 1);
    else if (step && !cursor) select(0, 0);
    else if (step && event.shiftKey) jump(...step.map(Math.sign));
    else if (step) select(cursor[0] + step[0], cursor[1] + step[1]);
    else return;
    event.preventDefault();
    if (cursor && !"+=-0".includes(event.key)) {
      const seen = plot.side / view.cell;
      view.y = Math.min(Math.max(view.y, cursor[0] + 1 - seen), cursor[0]);
      view.x = Math.min(Math.max(view.x, cursor[1] + 1 - seen), cursor[1]);
      clamp();
    }
    draw();
  });
  const centre = () => (cursor ? [(cursor[1] + 0.5 - view.x) * view.cell, (cursor[0] + 0.5 - view.y) * view.cell] : []);

  for (const name of ["run", "order", "near"]) control(name).addEventListener("change", choose);
  control("filter").addEventListener("input", choose);
  control("in").addEventListener("click", () => zoom(1.5, ...centre()));
  control("out").addEventListener("click", () => zoom(1 / 1.5, ...centre()));
  control("all").addEventListener("click", whole);
  control("scale").style.background = `linear-gradient(to right, ${colours.filter((_, i) => i % 15 === 0).join(", ")})`;
  let width = canvas.clientWidth;
  new ResizeObserver(() => {
    if (canvas.clientWidth === width) return; // the canvas sets its own height
    width = canvas.clientWidth;
    const before = plot.side;
    measure();
    view.cell *= plot.side / before;
    draw();
  }).observe(box);
  tip.style.minHeight = `${(2 + runs.length) * 1.5 + 1}em`; // what is below must not move when it is filled
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  choose();
}

const matrixData = document.getElementById("matrix-data");
if (matrixData) confusionMatrix(JSON.parse(matrixData.textContent));
