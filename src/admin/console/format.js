// Formats numbers, times and sizes. Does not touch the DOM.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
const NONE = "–";
const NUMBER = new Intl.NumberFormat("en");

export const none = NONE;

/** `12,345`. */
export const number = (value) => (value === null || value === undefined ? NONE : NUMBER.format(value));

/** `512 B`, `1.4 kB`, `16 MB`, in powers of 1024 like the configuration's limits. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  let [size, unit] = [value, 0];
  while (size >= 1024 && unit < UNITS.length - 1) [size, unit] = [size / 1024, unit + 1];
  return `${unit > 0 && size < 10 ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`;
}

/** `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** Like `span`, without tenths: the age of a state. */
export const age = (seconds) =>
  seconds !== null && seconds < 10 ? `${Math.floor(Math.max(0, seconds))} s` : span(seconds);

const two = (value) => String(value).padStart(2, "0");

/** `UTC`, `UTC+1`, `UTC-3:30`: the zone of local time at this date. */
function zone(date) {
  const minutes = -date.getTimezoneOffset();
  if (minutes === 0) return "UTC";
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  return `UTC${minutes < 0 ? "-" : "+"}${hours}${rest ? `:${two(rest)}` : ""}`;
}

/** `2026-11-26 08:58 UTC+1` in local time. Values that are no JavaScript date (infinity, a year BC) stay unchanged. */
export function time(value, withSeconds = false) {
  if (value === null || value === undefined) return NONE;
  const date = new Date(value);
  if (Number.isNaN(date.getTime())) return String(value);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return `${day} ${clock}${withSeconds ? `:${two(date.getSeconds())}` : ""} ${zone(date)}`;
}

/** `1 user`, `3 users`. */
export const count = (value, one, many = `${one}s`) => `${number(value)} ${value === 1 ? one : many}`;
