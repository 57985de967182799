// Plots: lines with bands for their intervals, axes with round ticks, names at the ends of the lines, and values under the pointer.

const ROW = 15; // the height of a name, in pixels
const FEW = 6; // lines whose intervals are all said at the pointer; of more, the nearest one's

function roundTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = power * [1, 2, 5, 10].find((factor) => power * factor >= rough * 0.999);
  const ticks = [];
  for (let index = Math.ceil(low / unit - 1e-9); index * unit <= high + unit * 1e-9; index += 1) ticks.push(index * unit);
  return { ticks, unit };
}

function logTicks(low, high, most) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = first; power <= last; power += 1) {
      for (const factor of factors) ticks.push(factor * 10 ** power);
    }
    const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
    if (inside.length <= most && inside.length >= 2) return inside;
    if (factors.length === 1 && inside.length > most) return inside.filter((_, index) => index % Math.ceil(inside.length / most) === 0);
  }
  return roundTicks(low, high, most).ticks.filter((tick) => tick > 0);
}

// From values to pixels: {at(value), ticks, say(value)}.
function scale(values, from, to, { log = false, most = 6, whole = false, tight = false, least = 0 }) {
  const usable = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let [low, high] = [Math.min(...usable), Math.max(...usable)];
  if (!usable.length) [low, high] = log ? [0.1, 1] : [0, 1];
  if (log) {
    low = Math.max(low, Math.min(least, high));
    if (low === high) [low, high] = [low / 2, high * 2];
    const room = tight ? 1 : (high / low) ** 0.04;
    [low, high] = [low / room, high * room];
    const at = (value) => from + ((Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low))) * (to - from);
    return { at, ticks: logTicks(low, high, most), say: (value) => spoken(value) };
  }
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  else if (!tight) [low, high] = [low >= 0 && low < 0.25 * high ? 0 : low - 0.05 * (high - low), high + 0.05 * (high - low)];
  let { ticks, unit } = roundTicks(low, high, most);
  if (whole) [ticks, unit] = [ticks.filter(Number.isInteger), 1];
  return { at: (value) => from + ((value - low) / (high - low)) * (to - from), ticks, say: (value) => spoken(value, unit) };
}

function pathOf(points) {
  let pen = "M";
  let path = "";
  for (const point of points) {
    if (point === null) pen = "M";
    else {
      path += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      pen = "L";
    }
  }
  return path;
}

// A plot in a <figure>. show(view) takes {title, x: {label, log, whole, reverse, say}, y: {label, log, mark}, lines, bands}; a line is
// {series, points: [{x, y, low, high}]}; y is null where there is a gap. y.least: of a logarithmic axis, where it ends below.
class Plot {
  constructor(box, label) {
    this.label = label;
    this.id = `edge-${document.querySelectorAll(".picture").length}`;
    this.view = null;
    this.cursor = null;
    this.height = null;
    this.picture = drawn("svg", { class: "picture", role: "group", tabindex: "0", "aria-roledescription": "plot" });
    this.values = element("div", { class: "values", hidden: true });
    this.spoken = element("p", { class: "unseen", "aria-live": "polite" });
    this.title = element("figcaption");
    this.controls = element("div", { class: "controls" });
    this.frame = element("div", { class: "frame" }, this.picture, this.values);
    box.append(this.title, this.controls, this.frame, this.spoken);
    this.near = false;
    new ResizeObserver(() => this.draw()).observe(this.frame);
    new IntersectionObserver((entries) => {
      const before = this.near;
      this.near = entries[entries.length - 1].isIntersecting;
      if (this.near && !before) this.draw();
    }, { rootMargin: "400px" }).observe(box);
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("pointerdown", (event) => this.point(event));
    // A finger leaves so that the eye can look.
    this.picture.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && this.move(null));
    this.picture.addEventListener("blur", () => this.move(null));
    this.picture.addEventListener("keydown", (event) => this.key(event));
    choice.listeners.push(() => this.draw());
    window.addEventListener("beforeprint", () => this.draw(true));
  }

  show(view) {
    this.view = view;
    this.title.replaceChildren(...view.title);
    this.draw();
  }

  // Draws where it can be seen; elsewhere when it comes near, so that a long page starts at once.
  draw(always = false) {
    const width = this.frame.clientWidth;
    if (!this.view || width < 40 || !(this.near || always)) return;
    const { x, y, bands } = this.view;
    const lines = this.view.lines.filter(({ series }) => !choice.hidden.has(series));
    this.lines = lines;
    const narrow = width < 520;
    const height = narrow ? 260 : Math.max(320, Math.min(460, (lines.length + 3) * ROW));
    const longest = Math.max(0, ...lines.map(({ series }) => shortened(DATA.series[series].name, 22).length));
    const right = narrow ? 14 : Math.min(190, 40 + 6.6 * longest);
    const area = { left: 58, right: width - right, top: 12, bottom: height - 42 };
    const points = lines.flatMap((line) => line.points);
    const ys = points.flatMap(({ y: value, low, high }) => (bands ? [value, low, high] : [value]));
    if (y.mark !== undefined) ys.push(y.mark);
    const ends = x.reverse ? [area.right, area.left] : [area.left, area.right];
    const across = scale(points.map((point) => point.x), ...ends, { log: x.log, most: narrow ? 5 : 10, whole: x.whole, tight: true });
    const up = scale(ys.filter((value) => value !== null), area.bottom, area.top, { log: y.log, most: 6, least: y.least });
    const good = (value) => value !== null && value !== undefined && (!y.log || value > 0);
    this.area = area;
    this.across = across;
    this.up = up;
    this.xs = [...new Set(points.map((point) => point.x))].sort((one, other) => across.at(one) - across.at(other));

    const axes = drawn("g", { class: "axes" });
    for (const tick of up.ticks) {
      const place = up.at(tick);
      axes.append(drawn("path", { class: "grid", d: `M${area.left} ${place}H${area.right}` }));
      axes.append(drawn("text", { x: area.left - 8, y: place + 4, "text-anchor": "end" }, up.say(tick)));
    }
    for (const tick of across.ticks) {
      const place = across.at(tick);
      axes.append(drawn("path", { class: "tick", d: `M${place} ${area.bottom}v5` }));
      axes.append(drawn("text", { x: place, y: area.bottom + 19, "text-anchor": "middle" }, across.say(tick)));
    }
    axes.append(drawn("path", { class: "axis", d: `M${area.left} ${area.bottom}H${area.right}` }));
    axes.append(drawn("text", { class: "label", x: (area.left + area.right) / 2, y: height - 6, "text-anchor": "middle" }, x.label));
    if (y.mark !== undefined && good(y.mark)) axes.append(drawn("path", { class: "mark", d: `M${area.left} ${up.at(y.mark)}H${area.right}` }));

    // What lies below the least value that is shown is cut off at the edge of the plot.
    const edge = drawn("clipPath", { id: this.id }, drawn("rect", { x: 0, y: area.top - 6, width, height: area.bottom - area.top + 12 }));
    const ink = drawn("g", { "clip-path": `url(#${this.id})` });
    const marked = this.xs.length <= 40;
    for (const line of [...lines].reverse()) {
      const style = styleOf(line.series);
      const group = drawn("g", { class: style.class, "data-series": line.series });
      if (bands) {
        const banded = line.points.filter(({ low, high }) => good(low) && good(high));
        const there = banded.map((point) => [across.at(point.x), up.at(point.high)]);
        const back = banded.map((point) => [across.at(point.x), up.at(point.low)]).reverse();
        if (there.length > 1) group.append(drawn("path", { class: "band", d: `${pathOf([...there, ...back])}Z` }));
      }
      const places = line.points.map((point) => (good(point.y) ? [across.at(point.x), up.at(point.y)] : null));
      group.append(drawn("path", { class: "line", d: pathOf(places), "stroke-dasharray": style.dash || null }));
      if (marked && style.marker) places.forEach((place) => place && group.append(markerOf(style.marker, ...place)));
      if (marked && !style.marker && places.filter(Boolean).length === 1) places.forEach((place) => place && group.append(markerOf("ring", ...place)));
      ink.append(group);
    }
    this.crosshair = drawn("g", { class: "crosshair" });
    const label = `${this.label}: ${y.label} by ${x.label}, ${lines.length} lines. Left and right arrow keys read the values.`;
    furnish(this.picture, { width, height, viewBox: `0 0 ${width} ${height}`, "aria-label": label }, []);
    this.picture.replaceChildren(edge, axes, ink, narrow ? drawn("g") : this.names(lines, good), this.crosshair);
    this.move(this.cursor !== null && this.xs.includes(this.cursor) ? this.cursor : null);
  }

  // Names at the right ends of the lines, moved apart where they would cover one another.
  names(lines, good) {
    const { area, across, up } = this;
    const names = [];
    for (const line of lines) {
      const seen = line.points.filter((point) => good(point.y));
      if (!seen.length) continue;
      const last = seen.reduce((one, other) => (across.at(other.x) > across.at(one.x) ? other : one));
      const height = Math.min(area.bottom, up.at(last.y));
      names.push({ series: line.series, x: across.at(last.x), y: height, place: height });
    }
    names.sort((one, other) => one.y - other.y);
    const room = Math.min(ROW, (area.bottom - area.top) / Math.max(1, names.length - 1));
    names.forEach((item, index) => (item.place = Math.max(item.place, index ? names[index - 1].place + room : area.top)));
    for (let index = names.length - 1; index >= 0; index -= 1) {
      names[index].place = Math.min(names[index].place, index === names.length - 1 ? area.bottom : names[index + 1].place - room);
    }
    const group = drawn("g", { class: "names" });
    for (const { series, x, y, place } of names) {
      const style = styleOf(series);
      const start = area.right + 20;
      const { name } = DATA.series[series];
      const text = drawn("text", { x: start + 12, y: place + 4 }, shortened(name, 22));
      text.append(drawn("title", {}, name));
      const leader = drawn("path", { class: "leader", d: `M${x + 4} ${y}L${start - 2} ${place}` });
      const sign = style.marker ? markerOf(style.marker, start + 4, place) : drawn("path", { class: "line", d: `M${start - 1} ${place}h10`, "stroke-dasharray": "3 2" });
      group.append(drawn("g", { class: style.class }, leader, sign), text);
    }
    return group;
  }

  point(event) {
    if (!this.xs?.length) return;
    const bounds = this.picture.getBoundingClientRect();
    const place = event.clientX - bounds.left;
    this.height = event.clientY - bounds.top;
    const distance = (value) => Math.abs(this.across.at(value) - place);
    this.move(this.xs.reduce((one, other) => (distance(other) < distance(one) ? other : one)));
  }

  key(event) {
    if (!this.xs?.length) return;
    const last = this.xs.length - 1;
    const now = this.cursor === null ? -1 : this.xs.indexOf(this.cursor);
    const next = { ArrowRight: Math.min(last, now + 1), ArrowLeft: now < 0 ? last : Math.max(0, now - 1), Home: 0, End: last }[event.key];
    if (next === undefined && event.key !== "Escape") return;
    event.preventDefault();
    this.height = null;
    this.move(next === undefined ? null : this.xs[next]);
    this.spoken.textContent = next === undefined ? "" : [...this.values.querySelectorAll("caption, tr")].map((row) => row.textContent).join(", ");
  }

  // The point of a line that is at a place, or so near that the eye cannot tell: curves need not have the same steps.
  nearestPoint(line, at) {
    const distance = (point) => Math.abs(this.across.at(point.x) - at);
    const seen = line.points.filter((point) => point.y !== null && point.y !== undefined && distance(point) < 5);
    return seen.length ? seen.reduce((one, other) => (distance(other) < distance(one) ? other : one)) : null;
  }

  // Puts the crosshair at a value of x and says what is there; null takes it away.
  move(value) {
    this.cursor = value;
    this.values.hidden = value === null;
    this.crosshair?.replaceChildren();
    if (value === null) return;
    const { x, y, better } = this.view;
    const at = this.across.at(value);
    this.crosshair.append(drawn("path", { d: `M${at} ${this.area.top}V${this.area.bottom}` }));
    const found = [];
    for (const line of this.lines) {
      const point = this.nearestPoint(line, at);
      if (point) found.push({ series: line.series, ...point });
    }
    found.sort((one, other) => (better === "higher" || y.high ? other.y - one.y : one.y - other.y));
    const distance = (point) => Math.abs(this.up.at(point.y) - this.height);
    const nearest = this.height === null || !found.length ? null : found.reduce((one, other) => (distance(other) < distance(one) ? other : one));
    const rows = found.map((point) => {
      if ((!y.log || point.y > 0) && this.up.at(point.y) <= this.area.bottom) this.crosshair.append(drawn("g", { class: styleOf(point.series).class }, drawn("circle", { cx: at, cy: this.up.at(point.y), r: 4.5 })));
      const told = (found.length <= FEW || point === nearest) && point.low !== null && point.low !== undefined;
      const range = told ? ` [${spoken(point.low)}, ${spoken(point.high)}]` : "";
      const heading = element("th", { scope: "row" }, swatch(point.series), named(DATA.series[point.series].name));
      return element("tr", { class: point === nearest ? "nearest" : null }, heading, element("td", {}, ` ${spoken(point.y)}`, element("span", { class: "interval" }, range)));
    });
    this.values.replaceChildren(element("table", {}, element("caption", {}, (x.say ?? spoken)(value)), element("tbody", { class: found.length > FEW ? "many" : null }, ...rows)));
    const narrow = this.frame.clientWidth < 520;
    this.values.classList.toggle("below", narrow);
    const left = at + 14 + this.values.offsetWidth > this.frame.clientWidth ? Math.max(0, at - 14 - this.values.offsetWidth) : at + 14;
    this.values.style.left = narrow ? "0" : `${left}px`;
  }
}

function duration(seconds) {
  if (seconds >= 3600 && seconds % 3600 === 0) return `${seconds / 3600} h`;
  return seconds >= 60 ? `${Number((seconds / 60).toFixed(2))} min` : `${Number(seconds.toFixed(2))} s`;
}

function startPlots() {
  for (const section of document.querySelectorAll(".sheet")) {
    const sheet = DATA.sheets[Number(section.dataset.sheet)];
    if (sheet.series.length) section.querySelector(".chooser").append(chooser(sheet.series, document.querySelector(".clip") ? "Show in plots and films" : "Show in plots"));
    if (sheet.scores.length) leadPlot(section.querySelector(".plot.leads"), sheet);
    const spectra = section.querySelector(".plot.spectra");
    if (spectra) spectrumPlot(spectra, sheet);
    const ensembles = section.querySelector(".plot.ensembles");
    if (ensembles) ensemblePlot(ensembles, sheet.ensembles);
  }
  const curves = document.querySelector(".plot.curves");
  if (curves && DATA.curves.length) curvePlot(curves);
}

function leadPlot(box, sheet) {
  const plot = new Plot(box, "Scores by lead");
  const state = { score: 0, part: 0, bands: true, log: false };
  const say = (lead) => `lead ${lead}${sheet.step ? ` (${duration(lead * sheet.step)})` : ""}`;
  const show = () => {
    const score = sheet.scores[state.score];
    const parts = [...new Set(score.lines.flatMap((line) => line.parts.map((part) => part.name)))];
    parted.label.hidden = !parts.length;
    if (parted.list.options.length !== parts.length + 1 || parts.some((part, index) => parted.list.options[index + 1].text !== part)) {
      parted.list.replaceChildren(...["mean", ...parts].map((part, index) => element("option", { value: index }, part)));
      state.part = 0;
    }
    const part = parts[state.part - 1];
    const lines = score.lines.map((line) => {
      const values = part === undefined ? line.leads : line.parts.find((one) => one.name === part)?.leads ?? [];
      const [low, high] = part === undefined ? [line.low, line.high] : [null, null];
      return { series: line.series, points: values.map((y, index) => ({ x: index + 1, y, low: low?.[index], high: high?.[index] })) };
    });
    const way = score.better ? `, ${score.better} is better` : "";
    plot.show({
      title: [named(score.name), ...(part === undefined ? [] : [" ", named(part)]), " by lead", element("span", { class: "small" }, `${way}${state.bands && part === undefined ? "; bands: 95 %" : ""}`)],
      x: { label: sheet.step ? `lead (frames of ${duration(sheet.step)})` : "lead (frames)", whole: true, say },
      y: { label: score.name, log: state.log },
      better: score.better,
      bands: state.bands,
      lines,
    });
  };
  const chosen = select("Score", sheet.scores.map(({ name }) => name), (index) => { state.score = index; show(); });
  const parted = select("Part", ["mean"], (index) => { state.part = index; show(); });
  plot.controls.append(
    chosen.label,
    parted.label,
    checkbox("95 % bands", state.bands, (on) => { state.bands = on; show(); }),
    checkbox("log", state.log, (on) => { state.log = on; show(); }),
  );
  show();
}

function spectrumPlot(box, sheet) {
  const plot = new Plot(box, "Spectra");
  const leads = Math.max(0, ...sheet.spectra.flatMap(({ points }) => points.map((point) => point[4].length)));
  const show = (lead) => {
    const lines = sheet.spectra.map(({ series, points }) => ({
      series,
      points: points.map(([x, mean, low, high, values]) => (lead ? { x, y: values[lead - 1] ?? null } : { x, y: mean, low, high })),
    }));
    plot.show({
      title: ["Power of the forecasts over the truth’s, by wavelength", element("span", { class: "small" }, "; 1 is right, below it detail is lost")],
      x: { label: "wavelength (pixels)", log: true, reverse: true, say: (value) => `${spoken(value)} pixels` },
      y: { label: "power ratio", log: true, mark: 1, least: 0.01, high: true },
      bands: true,
      lines,
    });
  };
  if (leads) plot.controls.append(select("Lead", ["mean", ...Array.from({ length: leads }, (_, lead) => `${lead + 1}`)], show).label);
  show(0);
}

function ensemblePlot(box, plots) {
  const plot = new Plot(box, "Ensembles");
  const leads = Math.max(0, ...plots.flatMap(({ lines }) => lines.flatMap(({ points }) => points.map((point) => point[4].length))));
  const state = { plot: 0, lead: 0 };
  const show = () => {
    const { name, x, y, mark, wavelengths, lines } = plots[state.plot];
    const say = (value) => `${x}: ${spoken(value)}`;
    plot.show({
      title: [named(name), element("span", { class: "small" }, `; ${mark} is right`)],
      x: wavelengths ? { label: x, log: true, reverse: true, say } : { label: x, say },
      y: wavelengths ? { label: y, log: true, mark, least: 0.01, high: true } : { label: y, mark, high: true },
      bands: true,
      lines: lines.map(({ series, points }) => ({
        series,
        points: points.map(([place, mean, low, high, values]) => (state.lead ? { x: place, y: values[state.lead - 1] ?? null } : { x: place, y: mean, low, high })),
      })),
    });
  };
  plot.controls.append(select("Show", plots.map(({ name }) => name), (index) => { state.plot = index; show(); }).label);
  if (leads) plot.controls.append(select("Lead", ["mean", ...Array.from({ length: leads }, (_, lead) => `${lead + 1}`)], (index) => { state.lead = index; show(); }).label);
  show();
}

function curvePlot(box) {
  const plot = new Plot(box, "Curves of training");
  const usual = Math.max(0, DATA.curves.findIndex(({ name }) => /valid/.test(name)));
  const positive = ({ lines }) => lines.every(({ points }) => points.every(([, value]) => value === null || value > 0));
  const state = { column: usual, log: positive(DATA.curves[usual]) };
  const show = () => {
    const { name, lines } = DATA.curves[state.column];
    plot.show({
      title: [named(name), " by step of training"],
      x: { label: "step", say: (step) => `step ${step}` },
      y: { label: name, log: state.log },
      bands: false,
      lines: lines.map(({ series, points }) => ({ series, points: points.map(([x, y]) => ({ x, y })) })),
    });
  };
  const chosen = select("Curve", DATA.curves.map(({ name }) => name), (index) => { state.column = index; show(); });
  chosen.list.value = String(usual);
  plot.controls.append(chosen.label, checkbox("log", state.log, (on) => { state.log = on; show(); }));
  show();
}
