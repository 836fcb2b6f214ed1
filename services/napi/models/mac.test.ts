import { expect, test } from 'vitest';
import { derivedMac, formatMac, parseMac } from './mac.ts';

test.each(['0a:0b:0c:0d:0e:0f', '0A-0B-0C-0D-0E-0F', '0a0b0c0d0e0f', 'a:b:c:d:e:f', 'a-b-c-d-e-f'])(
  '%s is a MAC',
  (text) => {
    expect(parseMac(text)).toBe(0x0a0b0c0d0e0f);
  },
);

test.each([
  '',
  'foobar',
  'a0b0c0d0e0f',
  '0a:0b:0c:0d:0e',
  '0a:0b:0c:0d:0e:0f:00',
  '0a::0c:0d:0e:0f',
  '00a:b:c:d:e:f',
  '0a:0b-0c:0d-0e:0f',
  '0g:0b:0c:0d:0e:0f',
])('"%s" is none', (text) => {
  expect(parseMac(text)).toBeUndefined();
});

test.each([
  [0, '00:00:00:00:00:00'],
  [0x90b8d0000001, '90:b8:d0:00:00:01'],
  [0xffffffffffff, 'ff:ff:ff:ff:ff:ff'],
])('%s is written %s', (number, text) => {
  expect(formatMac(number)).toBe(text);
  expect(parseMac(text)).toBe(number);
});

test('what is made up is under the OUI, the same again for a repeat, and goes on to the next', () => {
  const first = derivedMac('a request', 0);
  expect(formatMac(first)).toMatch(/^90:b8:d0:/);
  expect(derivedMac('a request', 0)).toBe(first);
  expect(derivedMac('another', 0)).not.toBe(first);
  const tries = Array.from({ length: 1000 }, (_, n) => derivedMac('a request', n));
  expect(new Set(tries).size).toBe(1000);
  // From the last one on it goes on with the first, never into another OUI.
  const all = Array.from({ length: 3 }, (_, n) => derivedMac('a request', 2 ** 24 - 2 + n));
  for (const mac of all) expect(formatMac(mac)).toMatch(/^90:b8:d0:/);
  expect(all[2]).toBe(first);
});
