import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import { uuidOr } from '../../common/fields.ts';

/** What clients say of a rule, in the words of `fwrule`, which checks the rest. */

function flagOf(name: string) {
  return z.union(
    [z.boolean(), z.enum(['true', 'false']).transform((s) => s === 'true')],
    `${name} must be true or false`,
  );
}

function stringOf(name: string) {
  return z.string(`${name} must be a string`).max(255, `${name} must be shorter than 255 characters`);
}

const owner = uuidOr('Invalid owner UUID').optional();

/** Far above what a rule can hold (24 targets a side); parsing more keeps the process from everything else. */
const maxRule = 65_535;

export const ruleSchema = z.strictObject({
  rule: z
    .string('rule must be a string')
    .max(maxRule, `rule must be shorter than ${maxRule + 1} characters`)
    .optional(),
  enabled: flagOf('enabled').optional(),
  log: flagOf('log').optional(),
  global: flagOf('global').optional(),
  owner_uuid: owner,
  description: stringOf('description').optional(),
  created_by: stringOf('created_by').optional(),
  uuid: uuidOr('Invalid rule UUID').optional(),
  version: stringOf('version').optional(),
});

export const ruleParams = z.object({ uuid: uuidOr('Invalid UUID') });
export const ownerQuery = z.strictObject({ owner_uuid: owner });

/** @throws MissingParameter (409) */
export function required<T>(name: string, value: T | undefined | ''): T {
  if (value === undefined || value === '')
    throw new CongerError('MissingParameter', `"${name}" parameter required`);
  return value;
}
