import type { TritonResource } from '../../../changefeed/feeds/triton.ts';
import { presentRule, type RuleRecord, rulesBucket } from './rule.ts';

/** Rules in Triton's changefeed. Triton's FWAPI has none of its own kind; the form is that of the other services. */
export const ruleItem: TritonResource = {
  resource: 'rule',
  subResources: ['create', 'delete', 'rule', 'enabled', 'log', 'description'],
  bootstrapRoute: '/rules',
  bucket: rulesBucket.name,
  toItem: ({ key, value, previous }) => {
    const [now, before] = [value as RuleRecord | null, previous as RuleRecord | null];
    if (now === null) return { subResources: ['delete'], changedResourceId: key };
    const extra = { resourceObject: presentRule(now) };
    if (before === null) return { subResources: ['create'], changedResourceId: key, extra };
    const changed = (['rule', 'enabled', 'log', 'description'] as const).filter(
      (field) => now[field] !== before[field],
    );
    return { subResources: changed, changedResourceId: key, extra };
  },
};
