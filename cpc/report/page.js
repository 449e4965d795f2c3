"use strict";
const root = document.documentElement;
const { utterances, sounds, maps, confusion } = JSON.parse(document.getElementById("data").textContent);
document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// Pictures: saved with the colours that they have at the moment.
for (const button of document.querySelectorAll(".save")) {
  button.addEventListener("click", () => {
    const copy = button.closest("figure").querySelector("svg").cloneNode(true);
    for (const name of ["--ink", "--dim", "--line", "--ground", "--blue", "--orange", "--right"]) {
      copy.style.setProperty(name, getComputedStyle(root).getPropertyValue(name));
    }
    copy.style.background = "var(--ground)";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
    link.download = button.dataset.name + ".svg";
    link.click();
  });
}

// Confusion matrix: the value of the cell that the pointer or the arrow keys choose.
const matrix = document.querySelector(".matrix");
if (matrix) {
  const { names, counts } = confusion;
  const chosen = matrix.querySelector(".chosen"), status = document.getElementById("cell");
  const left = Number(matrix.dataset.left), side = 14;
  let row = -1, column = 0;
  const choose = (r, c) => {
    if (r < 0 || c < 0 || r >= names.length || c >= names.length) return;
    [row, column] = [r, c];
    const total = counts[r].reduce((sum, n) => sum + n, 0), count = counts[r][c];
    const share = total ? (100 * count / total).toFixed(1) : "–";
    status.textContent = `${names[r]} as ${names[c]}: ${share} %, ${count} of ${total} frames`;
    chosen.setAttribute("x", left - 16 + side * c);
    chosen.setAttribute("y", left - 16 + side * r);
    chosen.setAttribute("visibility", "visible");
  };
  matrix.addEventListener("pointermove", (event) => {
    const box = matrix.getBoundingClientRect(), unit = matrix.viewBox.baseVal.width / box.width;
    choose(Math.floor(((event.clientY - box.top) * unit - left) / side),
      Math.floor(((event.clientX - box.left) * unit - left) / side));
  });
  matrix.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step) { event.preventDefault(); row < 0 ? choose(0, 0) : choose(row + step[0], column + step[1]); }
  });
}

// Maps: a point plays its second.
const player = new Audio();
let until = 0;
const listen = () => {
  if (player.currentTime >= until) player.pause();
  if (!player.paused) requestAnimationFrame(listen);
};
const play = (utterance, start) => {
  if (!sounds[utterance]) return;
  player.src = sounds[utterance];
  player.currentTime = start;
  until = start + 1;
  player.play().then(listen, () => {});
};
for (const map of document.querySelectorAll(".map")) {
  const points = maps[map.dataset.name], status = document.getElementById("point-" + map.dataset.name);
  const circles = [...map.querySelectorAll("circle:not(.chosen)")], chosen = map.querySelector(".chosen");
  let index = -1;
  const choose = (i) => {
    index = (i + points.length) % points.length;
    const [name, utterance, start] = points[index];
    const silent = sounds[utterance] ? "" : "; its sound is not on the page";
    status.textContent = `${name}: ${utterance}, ${start.toFixed(2)} to ${(start + 1).toFixed(2)} s${silent}`;
    for (const key of ["cx", "cy"]) chosen.setAttribute(key, circles[index].getAttribute(key));
    chosen.setAttribute("visibility", "visible");
  };
  const nearest = (event) => {
    const box = map.getBoundingClientRect(), unit = map.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * unit, y = (event.clientY - box.top) * unit;
    const distance = circles.map((one) => Math.hypot(one.cx.baseVal.value - x, one.cy.baseVal.value - y));
    return distance.indexOf(Math.min(...distance));
  };
  map.addEventListener("pointermove", (event) => choose(nearest(event)));
  map.addEventListener("click", (event) => { choose(nearest(event)); play(...points[index].slice(1)); });
  map.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (step) { event.preventDefault(); choose(index < 0 ? 0 : index + step); }
    if ((event.key === "Enter" || event.key === " ") && index >= 0) {
      event.preventDefault();
      play(...points[index].slice(1));
    }
  });
}

// Utterances: sound, waveform, spectrogram and phones share one time axis, which zooms and scrolls.
const viewer = document.getElementById("viewer");
if (viewer) {
  const part = (name) => viewer.querySelector(name);
  const select = part("select"), zoom = part("input"), audio = part("audio"), axis = part(".axis"), now = part(".now");
  const scroll = axis.parentElement, LEGIBLE = 16, STEPS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];
  let shown = utterances[0];
  const at = (intervals, seconds) => intervals.find(([start, end]) => start <= seconds && seconds < end);
  const fill = (track, intervals, truth) => {
    track.hidden = part(track.classList.contains("spoken") ? ".spokenname" : ".heardname").hidden = !intervals.length;
    track.replaceChildren(...intervals.map(([start, end, phone]) => {
      const box = document.createElement("span");
      box.textContent = phone;
      box.title = `${phone} ${start.toFixed(2)}–${end.toFixed(2)} s`;
      box.style.left = 100 * start / shown.seconds + "%";
      box.style.width = 100 * (end - start) / shown.seconds + "%";
      box.dataset.start = start;
      box.dataset.end = end;
      const spoken = truth && at(truth, (start + end) / 2);
      if (spoken) box.className = spoken[2] === phone ? "right" : "wrong";
      return box;
    }));
  };
  // The slider goes from the whole utterance (0) to where the shortest phone is legible (100), in equal ratios.
  const lengths = () => [...shown.spoken, ...shown.heard].map(([start, end]) => end - start).sort((a, b) => a - b);
  const least = () => scroll.clientWidth / shown.seconds;
  const most = () => Math.max(2 * least(), Math.min(3000, LEGIBLE / (lengths()[0] || 0.1)));
  const apply = () => {
    const scale = least() * (most() / least()) ** (zoom.value / 100);  // pixels a second
    const middle = Number(axis.getAttribute("aria-valuenow"));
    axis.style.width = zoom.value > 0 ? scale * shown.seconds + "px" : "100%";
    const step = STEPS.find((one) => one * scale >= 50) || 10, ticks = [];
    for (let i = 0; i * step < shown.seconds; i++) {
      const tick = document.createElement("span");
      tick.textContent = Number((i * step).toFixed(2));
      tick.style.left = 100 * i * step / shown.seconds + "%";
      ticks.push(tick);
    }
    part(".ticks").replaceChildren(...ticks);
    for (const box of axis.querySelectorAll(".track span")) {
      box.classList.toggle("narrow", (box.dataset.end - box.dataset.start) * scale < 14);
    }
    zoom.setAttribute("aria-valuetext", `${Math.round(scale)} pixels a second`);
    scroll.scrollLeft = scale * middle - scroll.clientWidth / 2;
  };
  const show = (index) => {
    shown = utterances[index];
    audio.src = sounds[shown.utterance];
    part("img").src = shown.spectrogram;
    part("img").alt = `spectrogram, 0 to ${shown.hertz / 1000} kHz`;
    [1, 0.5, 0].forEach((share, i) => {
      part(".hertz").children[i].textContent = Number((share * shown.hertz / 1000).toFixed(2)) + (i ? "" : " kHz");
    });
    part(".wave").setAttribute("d", shown.wave);
    fill(part(".spoken"), shown.spoken, null);
    fill(part(".heard"), shown.heard, shown.spoken);
    part(".rows").hidden = !shown.spoken.length || !shown.heard.length;
    part(".end").textContent = shown.seconds.toFixed(2) + " s";
    // At first, nine tenths of the spoken phones are legible.
    const spoken = shown.spoken.map(([start, end]) => end - start).sort((a, b) => a - b);
    const wanted = spoken.length ? LEGIBLE / spoken[Math.floor(spoken.length / 10)] : 0;
    zoom.value = Math.min(100, Math.max(0, Math.ceil(100 * Math.log(wanted / least()) / Math.log(most() / least()))));
    move(0);
    apply();
  };
  const move = (seconds) => {
    const place = axis.clientWidth * seconds / shown.seconds;
    cursorAt(100 * seconds / shown.seconds);
    if (place < scroll.scrollLeft || place > scroll.scrollLeft + 0.8 * scroll.clientWidth) {
      scroll.scrollLeft = place - 0.2 * scroll.clientWidth;
    }
    const [spoken, heard] = [at(shown.spoken, seconds), at(shown.heard, seconds)];
    const words = [`${seconds.toFixed(2)} s`];
    if (spoken) words.push(`spoken ${spoken[2]}`);
    if (heard) words.push(`predicted ${heard[2]}`);
    now.textContent = words.join(" · ");
    axis.setAttribute("aria-valuenow", seconds.toFixed(2));
    axis.setAttribute("aria-valuemax", shown.seconds.toFixed(2));
    axis.setAttribute("aria-valuetext", words.join(", "));
  };
  const cursorAt = (percent) => { part(".cursor").style.left = percent + "%"; };
  const seek = (seconds) => {
    audio.currentTime = Math.min(shown.seconds, Math.max(0, seconds));
    move(Math.min(shown.seconds, Math.max(0, seconds)));
  };
  const follow = () => { move(audio.currentTime); if (!audio.paused) requestAnimationFrame(follow); };
  utterances.forEach((one, index) => select.add(new Option(one.name, index)));
  select.addEventListener("change", () => show(Number(select.value)));
  zoom.addEventListener("input", apply);
  addEventListener("resize", apply);
  audio.addEventListener("play", follow);
  audio.addEventListener("seeked", () => move(audio.currentTime));
  axis.addEventListener("click", (event) => {
    const box = axis.getBoundingClientRect();
    seek(shown.seconds * (event.clientX - box.left) / box.width);
  });
  axis.addEventListener("keydown", (event) => {
    const here = Number(axis.getAttribute("aria-valuenow"));
    const step = { ArrowLeft: -0.1, ArrowRight: 0.1, Home: -Infinity, End: Infinity, PageUp: -1, PageDown: 1 }[event.key];
    const nearer = { "+": 10, "=": 10, "-": -10, "−": -10 }[event.key];
    if (step !== undefined) { event.preventDefault(); seek(here + step); }
    if (nearer) { event.preventDefault(); zoom.value = Number(zoom.value) + nearer; apply(); }
    if (event.key === " ") { event.preventDefault(); audio.paused ? audio.play() : audio.pause(); }
  });
  show(0);
}
