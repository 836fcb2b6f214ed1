/** The two checksums of the fast protocol: which one a message carries depends on its version. */

function table(step: (crc: number) => number, start: (byte: number) => number): Uint16Array {
  const entries = new Uint16Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = start(byte);
    for (let bit = 0; bit < 8; bit++) crc = step(crc);
    entries[byte] = crc;
  }
  return entries;
}

const arc = table(
  (crc) => (crc & 1 ? (crc >>> 1) ^ 0xa001 : crc >>> 1),
  (byte) => byte,
);
const xmodem = table(
  (crc) => (crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff),
  (byte) => byte << 8,
);

/** Version 2: CRC-16/ARC over the payload's bytes. */
export function crcArc(bytes: Uint8Array, from: number, to: number): number {
  let crc = 0;
  for (let i = from; i < to; i++) crc = arc[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return crc;
}

/**
 * Version 1: CRC-16/XMODEM over the low byte of each UTF-16 code unit of the text. That is what node-crc 0.3 made of
 * strings, and every peer that speaks version 1 expects it.
 */
export function crcLegacy(text: string): number {
  let crc = 0;
  for (let i = 0; i < text.length; i++) {
    crc = xmodem[((crc >>> 8) ^ text.charCodeAt(i)) & 0xff]! ^ ((crc << 8) & 0xffff);
  }
  return crc;
}
