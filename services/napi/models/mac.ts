import { createHash } from 'node:crypto';

/** MAC addresses: `90:b8:d0:12:34:56` outside, a number in the store. */

const oui = 0x90b8d0;
const suffixes = 2 ** 24;

/**
 * The number of a MAC, in any way of writing it: with colons or dashes, where leading zeros may be left out, or with
 * neither. undefined where it is none.
 */
export function parseMac(text: string): number | undefined {
  const parts = text.includes('-') ? text.split('-') : text.split(':');
  const digits =
    parts.length === 1 ? text : parts.map((part) => (part === '' ? '?' : part.padStart(2, '0'))).join('');
  const whole = parts.length === 1 || parts.length === 6;
  return whole && /^[0-9a-f]{12}$/i.test(digits) ? Number.parseInt(digits, 16) : undefined;
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
