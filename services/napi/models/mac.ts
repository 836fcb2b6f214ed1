import { createHash } from 'node:crypto';

/** MAC addresses: `90:b8:d0:12:34:56` outside, a number in the store. */

const oui = 0x90b8d0;
const suffixes = 2 ** 24;

/** The number of a MAC with colons, with dashes, or with neither; undefined where it is none. */
export function parseMac(text: string): number | undefined {
  const hex = text.replace(/[:-]/g, '');
  return /^[0-9a-f]{12}$/i.test(hex) ? Number.parseInt(hex, 16) : undefined;
}

export function formatMac(number: number): string {
  return number
    .toString(16)
    .padStart(12, '0')
    .replace(/(..)(?!$)/g, '$1:');
}

/** The n-th MAC under Triton's OUI for what `seed` names: looks random, and is the same again for a repeat. */
export function derivedMac(seed: string, n: number): number {
  const start = createHash('sha1').update(seed).digest().readUIntBE(0, 3);
  return oui * suffixes + ((start + n) % suffixes);
}
