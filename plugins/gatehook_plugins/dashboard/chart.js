// Bars for days, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 960;
const HEIGHT = 220;
const LEFT = 56;
const BOTTOM = 24;
const TOP = 14;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * A chart of `days`, each `{day: "2026-11-30", value: number}`, the oldest first; `told` makes a value readable.
 */
export function chart(days, what, told) {
  const most = Math.max(...days.map((one) => one.value)) || 1;
  const step = (WIDTH - LEFT) / days.length;
  const room = HEIGHT - BOTTOM - TOP;
  const label = `${what} by day: ${days.map((one) => `${one.day} ${told(one.value)}`).join(", ")}`;
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const y = TOP + room * (1 - share);
    svg.append(element("line", { x1: LEFT, x2: WIDTH, y1: y, y2: y }));
    svg.append(element("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, told(most * share)));
  }
  days.forEach(({ day, value }, place) => {
    const height = (room * value) / most;
    const x = LEFT + step * place;
    const bar = element("rect", { class: "bar", x: x + step * 0.15, y: TOP + room - height, width: step * 0.7, height });
    bar.append(element("title", {}, `${day}: ${told(value)}`));
    svg.append(bar);
    svg.append(element("text", { x: x + step / 2, y: HEIGHT - 6, "text-anchor": "middle" }, day.slice(5)));
  });
  return svg;
}
