// WebAssembly whose memory ends at the `mib` of this worker's address: a module's memory gets that as its largest size.

const MIB = Number(new URLSearchParams(self.location.search).get("mib"));
const PAGES = MIB * 16;
const MEMORY_SECTION = 5;

/**
 * A number in LEB128, and where it ends.
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function readNumber(bytes, at) {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = bytes[at] ?? 0;
    at += 1;
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return { value, at };
  }
}

/** @param {number} value */
function writeNumber(value) {
  const bytes = [];
  for (; value >= 0x80; value >>>= 7) bytes.push((value & 0x7f) | 0x80);
  return [...bytes, value];
}

/** @param {Uint8Array<ArrayBuffer>} bytes of a module with a memory that has no largest size */
function limited(bytes) {
  for (let section = 8; section < bytes.length;) {
    const size = readNumber(bytes, section + 1);
    const end = size.at + size.value;
    if (bytes[section] === MEMORY_SECTION) {
      const [count, flags] = bytes.subarray(size.at);
      if (count !== 1 || flags !== 0) throw new Error(`a memory section of count ${count}, flags ${flags}`);
      const least = readNumber(bytes, size.at + 2).value;
      const content = [1, 1, ...writeNumber(least), ...writeNumber(PAGES)];
      return new Blob([bytes.subarray(0, section), Uint8Array.of(MEMORY_SECTION, ...writeNumber(content.length), ...content), bytes.subarray(end)]).arrayBuffer();
    }
    section = end;
  }
  throw new Error("a module without a memory section");
}

WebAssembly.instantiateStreaming = async (response, imports) => {
  const bytes = new Uint8Array(await (await response).arrayBuffer());
  return WebAssembly.instantiate(await limited(bytes), imports);
};
