import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import { type VmRecord, vmsBucket } from '../../common/records.ts';
import type { ServiceContext } from '../../common/service.ts';
import { presentRule, type RuleRecord, ruleOfRecord, rulesBucket } from '../models/rule.ts';
import { ruleNames } from '../models/targets.ts';

/** GET /firewalls/vms/:uuid: the rules that name a machine, the global ones with them. */
export function firewallRoutes({ app, kv }: ServiceContext): void {
  const schema = {
    params: z.object({ uuid: z.uuid() }),
    querystring: z.strictObject({ owner_uuid: z.uuid().optional() }),
  };
  app.get('/firewalls/vms/:uuid', { schema }, async (request) => {
    const vm = await kv.tryGet<VmRecord>(vmsBucket.name, request.params.uuid);
    const wrongOwner =
      request.query.owner_uuid !== undefined && request.query.owner_uuid !== vm?.value.owner_uuid;
    if (vm === undefined || wrongOwner)
      throw new CongerError('ResourceNotFound', `VM ${request.params.uuid} not found`);
    const filter = `(|(owner=${vm.value.owner_uuid})(&(uuid=*)(!(owner=*))))`;
    const rules = await kv.find<RuleRecord>(rulesBucket.name, filter, { noLimit: true });
    return rules.objects
      .filter((rule) => ruleNames(ruleOfRecord(rule.value), vm.value))
      .map((rule) => presentRule(rule.value));
  });
}
