import { expect, test } from 'vitest';
import { unzip } from './unzip.ts';

/** A directory, a file that is stored, one that is deflated, one that is empty, and a comment. */
const archive = Buffer.from(
  [
    'UEsDBBQAAAAAAAAAIVAAAAAAAAAAAAAAAAACAAAAYS9QSwMEFAAAAAAAAAAhULMkTpYIAAAACAAAAAwAAABhL3N0b3',
    'JlZC50eHRhcyBpdCBpc1BLAwQUAAAACAAAACFQcUMs4xEAAACQAAAADAAAAGEvcGFja2VkLnR4dEtMT8zMU0jMS1FI',
    'xM2ioxoAUEsDBBQAAAAAAAAAIVAAAAAAAAAAAAAAAAAFAAAAZW1wdHlQSwECFAMUAAAAAAAAACFQAAAAAAAAAAAAAA',
    'AAAgAAAAAAAAAAAAAAgAEAAAAAYS9QSwECFAMUAAAAAAAAACFQsyROlggAAAAIAAAADAAAAAAAAAAAAAAAgAEgAAAA',
    'YS9zdG9yZWQudHh0UEsBAhQDFAAAAAgAAAAhUHFDLOMRAAAAkAAAAAwAAAAAAAAAAAAAAIABUgAAAGEvcGFja2VkLn',
    'R4dFBLAQIUAxQAAAAAAAAAIVAAAAAAAAAAAAAAAAAFAAAAAAAAAAAAAACAAY0AAABlbXB0eVBLBQYAAAAABAAEANcA',
    'AACwAAAACQBhIGNvbW1lbnQ=',
  ].join(''),
  'base64',
);

test('the files of an archive', () => {
  const files = [...unzip(archive)].map(({ name, data }) => [name, data.toString()]);
  expect(files).toEqual([
    ['a/stored.txt', 'as it is'],
    ['a/packed.txt', 'again and again and again and again '.repeat(4)],
    ['empty', ''],
  ]);
});

test('what is no archive, or is damaged, is refused', () => {
  expect(() => [...unzip(Buffer.from('not a zip archive, by far'))]).toThrow('not a zip archive');
  const damaged = Buffer.from(archive);
  damaged.writeUInt32LE(0, damaged.indexOf('PK\x01\x02'));
  expect(() => [...unzip(damaged)]).toThrow('damaged');
});
