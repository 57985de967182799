// Films: one clock for all that can be seen. It shows frames, not time: the next frame comes when every film has shown the last one.

const PATIENCE = 1000; // milliseconds that the clock waits for a film that is late
const ICONS = {
  first: "M2 3H4V13H2ZM9 3V13L4 8ZM14 3V13L9 8Z",
  back: "M4 3H6V13H4ZM12 3V13L7 8Z",
  play: "M4 2.5L13 8L4 13.5Z",
  pause: "M4 3H7V13H4ZM9 3H12V13H9Z",
  forward: "M10 3H12V13H10ZM4 3V13L9 8Z",
  last: "M12 3H14V13H12ZM7 3V13L12 8ZM2 3V13L7 8Z",
};

function icon(name) {
  return drawn("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" }, drawn("path", { d: ICONS[name], fill: "currentColor" }));
}

// A film that is there while its screen is near the window, and shows the frame that it is told. Browsers have only so many decoders.
class Film {
  constructor(screen, rate) {
    this.screen = screen;
    this.rate = rate;
    this.frame = 0;
    this.video = null;
    this.blob = null;
    this.lost = !(screen.dataset.src || screen.dataset.inside);
  }

  load() {
    if (this.lost || this.video) return;
    const source = this.screen.dataset.src ?? this.unpack();
    if (source === null) return;
    const video = element("video", { playsinline: true, preload: "auto", "aria-label": this.screen.dataset.alt });
    video.muted = true;
    video.addEventListener("loadedmetadata", () => this.seek());
    video.addEventListener("error", () => video === this.video && this.lose());
    video.src = source;
    this.video = video;
    this.screen.replaceChildren(video);
  }

  // What the page holds itself becomes a blob; where it has not been read yet, it is asked for again.
  unpack() {
    const bytes = document.getElementById(this.screen.dataset.inside);
    if (bytes === null) {
      if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => this.load(), { once: true });
      else this.lose();
      return null;
    }
    const plain = Uint8Array.from(atob(bytes.textContent), (letter) => letter.charCodeAt(0));
    this.blob = URL.createObjectURL(new Blob([plain], { type: this.screen.dataset.type }));
    return this.blob;
  }

  unload() {
    const { video } = this;
    if (!video) return;
    this.video = null;
    this.screen.replaceChildren();
    video.removeAttribute("src");
    video.load();
    if (this.blob) URL.revokeObjectURL(this.blob);
    this.blob = null;
  }

  show(frame) {
    this.frame = frame;
    this.seek();
  }

  // The middle of the frame, where no rounding reaches its neighbours.
  seek() {
    const { video } = this;
    if (!video || video.readyState < 1) return;
    const time = (this.frame + 0.5) / this.rate;
    if (!video.seekable.length || video.seekable.end(0) < Math.min(time, video.duration)) this.fetchWhole(video);
    else if (Math.abs(video.currentTime - time) > 1e-4) video.currentTime = time;
  }

  // A server that gives no parts of files allows no seeking: then the whole film is fetched first.
  async fetchWhole(video) {
    if (this.blob || this.fetching || !location.protocol.startsWith("http")) return;
    this.fetching = true;
    try {
      const answer = await fetch(this.screen.dataset.src);
      if (!answer.ok) throw new Error(answer.statusText);
      const bytes = await answer.blob();
      if (video === this.video) {
        this.blob = URL.createObjectURL(bytes);
        video.src = this.blob;
      }
    } catch {
      this.lose();
    }
    this.fetching = false;
  }

  lose() {
    this.lost = true;
    this.video = null;
    this.screen.replaceChildren(element("p", { class: "lost", role: "note" }, "This film is missing or cannot be played here."));
  }

  get settled() {
    return !this.video || (this.video.readyState >= 2 && !this.video.seeking);
  }
}

// The films of one clip. Position 0 is the first forecast frame, so that clips of different lengths start to forecast together.
class Clip {
  constructor(box, { frames, context, rate, width, height, captions }) {
    Object.assign(this, { box, frames, context, rate, captions });
    box.style.setProperty("--shape", `${width} / ${height}`);
    this.phase = box.querySelector(".phase");
    this.caption = box.querySelector(".caption");
    this.films = new Map([...box.querySelectorAll(".screen")].map((screen) => [screen, new Film(screen, rate)]));
  }

  show(position) {
    const frame = Math.max(0, Math.min(this.frames - 1, this.context + position));
    const phase = this.context === 0 ? "" : frame < this.context ? "observed" : "forecast";
    this.box.dataset.phase = phase;
    this.phase.textContent = phase;
    this.caption.textContent = this.captions[frame] ?? "";
    for (const film of this.films.values()) film.show(frame);
  }
}

class Player {
  constructor(section, clips) {
    this.section = section;
    this.clips = clips;
    this.playing = false;
    this.speed = 1;
    this.loop = !window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.hold = true;
    this.build();
    this.watch();
    this.limits();
    this.show(0);
  }

  build() {
    const button = (name, label, action) => element("button", { type: "button", class: name, "aria-label": label, title: label, click: action }, icon(name));
    this.button = element("button", { type: "button", class: "play", click: () => this.toggle() });
    this.slider = element("input", { type: "range", step: 1, "aria-label": "frame", input: () => this.jump(Number(this.slider.value)) });
    this.output = element("output", { class: "now", "aria-live": "off" });
    const bar = this.section.querySelector(".player");
    bar.append(
      button("first", "first frame", () => this.jump(this.start)),
      button("back", "one frame back", () => this.jump(this.position - 1)),
      this.button,
      button("forward", "one frame on", () => this.jump(this.position + 1)),
      button("last", "last frame", () => this.jump(this.end)),
      this.slider,
      this.output,
    );
    furnish(bar, { role: "group", "aria-label": "All films: play, step, seek" }, []);
    const speeds = [0.25, 0.5, 1, 2, 4];
    const speed = select("Speed", speeds.map((times) => `${times} ×`), (index) => (this.speed = speeds[index]));
    speed.list.value = String(speeds.indexOf(1));
    const clips = select("Clips", ["all", ...this.clips.map(({ box }, index) => `${index + 1}: ${box.querySelector("h3").textContent}`)], (index) => {
      this.clips.forEach(({ box }, place) => (box.hidden = index > 0 && place !== index - 1));
      this.limits();
      this.show(this.position);
    });
    const sizes = ["small", "medium", "large"];
    const size = select("Size", sizes, (index) => (this.section.dataset.size = sizes[index]));
    size.list.value = "1";
    const options = this.section.querySelector(".options");
    const numbers = [...new Set([...this.section.querySelectorAll(".column")].map((column) => column.dataset.series))].filter((number) => number !== "").map(Number);
    const kinds = this.section.querySelector("[data-kind=error]") !== null;
    if (numbers.length) options.append(chooser(numbers, "Show in plots and films"));
    options.append(
      element(
        "div",
        { class: "controls" },
        ...(this.clips.length > 1 ? [clips.label] : []),
        size.label,
        speed.label,
        checkbox("loop", this.loop, (on) => (this.loop = on)),
        checkbox("hold where the forecast begins", this.hold, (on) => (this.hold = on)),
        ...(kinds ? [checkbox("errors", true, (on) => this.section.classList.toggle("no-errors", !on))] : []),
        element("span", { class: "small" }, "Keys: space plays, ← → step, Home and End jump."),
      ),
    );
    this.section.addEventListener("keydown", (event) => this.key(event));
    this.section.addEventListener("click", (event) => {
      if (!(event.target instanceof HTMLVideoElement)) return;
      this.toggle();
      event.target.closest(".clip").focus({ preventScroll: true });
    });
    const follow = () => {
      for (const column of this.section.querySelectorAll(".column")) column.hidden = column.dataset.series !== "" && choice.hidden.has(Number(column.dataset.series));
      for (const { box } of this.clips) box.style.setProperty("--count", box.querySelectorAll(".column:not([hidden])").length);
    };
    choice.listeners.push(follow);
    follow();
    this.say();
  }

  // Films are loaded when they come near the window, and given back when they are far from it.
  watch() {
    const films = new Map(this.clips.flatMap((clip) => [...clip.films]));
    const observe = (margin, act) => {
      const observer = new IntersectionObserver((entries) => entries.forEach((entry) => act(films.get(entry.target), entry.isIntersecting)), { rootMargin: margin });
      for (const screen of films.keys()) observer.observe(screen);
    };
    observe("300px", (film, seen) => seen && film.load());
    observe("1800px", (film, seen) => seen || film.unload());
  }

  // The first and last position of the clips that are chosen.
  limits() {
    const shown = this.clips.filter(({ box }) => !box.hidden);
    this.start = -Math.max(...shown.map(({ context }) => context));
    this.end = Math.max(...shown.map(({ frames, context }) => frames - context)) - 1;
    this.rate = shown[0].rate;
    this.position = Math.max(this.start, Math.min(this.end, this.position ?? 0));
    furnish(this.slider, { min: this.start, max: this.end }, []);
    const boundary = this.end > this.start ? Math.max(0, (-0.5 - this.start) / (this.end - this.start)) : 0;
    this.slider.style.setProperty("--boundary", `${(100 * boundary).toFixed(2)}%`);
  }

  show(position) {
    this.position = Math.max(this.start, Math.min(this.end, position));
    const phase = this.start === 0 ? "" : this.position < 0 ? "observed" : `forecast, lead ${this.position + 1}`;
    const frame = `frame ${this.position - this.start + 1} of ${this.end - this.start + 1}`;
    this.slider.value = String(this.position);
    this.slider.setAttribute("aria-valuetext", phase ? `${frame}, ${phase}` : frame);
    this.output.textContent = phase ? `${frame} · ${phase}` : frame;
    for (const clip of this.clips) {
      if (!clip.box.hidden) clip.show(this.position);
    }
  }

  jump(position) {
    this.pause();
    this.show(position);
  }

  say() {
    const label = this.playing ? "Pause" : "Play";
    this.button.replaceChildren(icon(this.playing ? "pause" : "play"), element("span", {}, label));
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  pause() {
    this.playing = false;
    this.say();
  }

  play() {
    this.playing = true;
    this.say();
    if (this.position === this.end) this.show(this.start);
    let shown = performance.now();
    const tick = (now) => {
      if (!this.playing) return;
      requestAnimationFrame(tick);
      const rest = this.hold && this.start < 0 && this.position === -1 ? 800 : this.loop && this.position === this.end ? 1200 : 0;
      const due = shown + 1000 / (this.rate * this.speed) + rest;
      if (now < due || (!this.settled && now < due + PATIENCE)) return;
      shown = now;
      if (this.position < this.end) this.show(this.position + 1);
      else if (this.loop) this.show(this.start);
      else this.pause();
    };
    requestAnimationFrame(tick);
  }

  get settled() {
    return this.clips.every(({ box, films }) => box.hidden || [...films.values()].every((film) => film.settled));
  }

  key(event) {
    const { target, key } = event;
    if (event.altKey || event.ctrlKey || event.metaKey || target.closest("select, a, .options input")) return;
    const presses = key === " " && target.closest("button");
    const action = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.jump(this.position - 1),
      ArrowRight: () => this.jump(this.position + 1),
      Home: () => this.jump(this.start),
      End: () => this.jump(this.end),
    }[key];
    if (!action || presses) return;
    event.preventDefault();
    action();
  }
}

function startFilms() {
  const boxes = [...document.querySelectorAll(".clip")];
  if (!boxes.length) return;
  const clips = boxes.map((box) => new Clip(box, DATA.clips[Number(box.dataset.clip)]));
  new Player(document.getElementById("films"), clips);
}
