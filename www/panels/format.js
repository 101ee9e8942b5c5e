/** Text for people, and from them. Pure functions. */

/** @param {number} bytes */
export function formatBytes(bytes) {
  if (bytes > 0 && bytes < 1e3) return "1 KB";
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} KB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
  return `${(bytes / 1e9).toFixed(bytes < 1e10 ? 2 : 1)} GB`;
}

/** @param {number} count */
export function formatCount(count) {
  const [size, word] = count >= 1e9 ? [1e9, "billion"] : count >= 1e6 ? [1e6, "million"] : [1, ""];
  if (word === "") return String(count);
  return `${(count / size).toFixed(count < 10 * size ? 1 : 0)} ${word}`;
}

/** @param {number} seconds */
export function formatDuration(seconds) {
  const whole = Math.max(1, Math.ceil(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  return `${(whole / 3600).toFixed(1)} h`;
}

/** @param {number} perSecond */
export function formatSpeed(perSecond) {
  return `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} tokens/s`;
}

/** Rate of a growing count over the last few seconds. */
export class Rate {
  /** @type {{ at: number, count: number }[]} */
  #marks = [];
  #window;

  /** @param {number} windowMs */
  constructor(windowMs) {
    this.#window = windowMs;
  }

  /**
   * @param {number} count
   * @param {number} at milliseconds
   * @returns {number} per second; 0 until there is something to compare
   */
  add(count, at) {
    this.#marks.push({ at, count });
    while (this.#marks.length > 2 && at - (this.#marks[0]?.at ?? at) > this.#window) this.#marks.shift();
    const first = this.#marks[0];
    if (first === undefined || at - first.at < 50) return 0;
    return ((count - first.count) * 1000) / (at - first.at);
  }
}

/**
 * @param {number} done
 * @param {number} total
 * @param {number} perSecond
 */
export function weightsLine(done, total, perSecond) {
  const parts = [total > 0 ? `${formatBytes(done)} of ${formatBytes(total)}` : formatBytes(done)];
  if (perSecond > 0) parts.push(`${formatBytes(perSecond)}/s`);
  if (perSecond > 0 && total > done) parts.push(`${formatDuration((total - done) / perSecond)} left`);
  return parts.join(", ");
}

/**
 * What to say while nothing comes until a server is asked again.
 *
 * @param {string} line how far it is
 * @param {{ ms: number, attempt: number, reason: string }} waiting
 */
export function waitingLine(line, { ms, attempt, reason }) {
  return `${line === "" ? "" : `${line}. `}Waiting ${formatDuration(ms / 1000)} to try again (attempt ${attempt}): ${reason}`;
}

/**
 * People paste the address of a model's page: its hub name is meant.
 *
 * @param {string} text
 * @param {string} hubUrl
 */
export function fromHubPage(text, hubUrl) {
  if (!text.startsWith(`${hubUrl}/`)) return text;
  const parts = /^\/([\w.-]+\/[\w.-]+)(?:\/tree\/([^/?#]+))?\/?(?:[?#].*)?$/.exec(text.slice(hubUrl.length));
  if (parts === null) return text;
  return parts[2] === undefined ? `${parts[1]}` : `${parts[1]}@${decodeURIComponent(parts[2])}`;
}

/**
 * What to call a model: the last folder of an address, a hub name as it is.
 *
 * @param {string} name
 */
export function shortName(name) {
  const isAddress = name.endsWith("/") || /^(https?:|\/|\.\.?\/)/i.test(name);
  return isAddress ? name.replace(/[?#].*$/, "").split("/").filter(Boolean).at(-1) ?? name : name;
}

/**
 * What the merge will fetch, in words; empty where there is nothing to say.
 *
 * @param {{ bytes: number[], unknown: number }} download
 */
export function downloadNote({ bytes, unknown }) {
  if (bytes.length === 0) return "";
  const known = bytes.filter((each) => each > 0);
  const total = known.reduce((sum, each) => sum + each, 0);
  const equal = known.length > 1 && known.every((each) => each === known[0]);
  const sizes = equal ? `about ${known.length} × ${formatBytes(known[0] ?? 0)}, ${formatBytes(total)} in all` : `about ${formatBytes(total)}`;
  if (unknown === 0) return `This downloads ${sizes}.`;
  const models = unknown === 1 ? "one model" : `${unknown} models`;
  return total > 0 ? `This downloads ${sizes}, and ${models} whose size is not known yet.` : `This downloads ${models} whole; the size is not known yet.`;
}
