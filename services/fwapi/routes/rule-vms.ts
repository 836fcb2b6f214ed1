import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import { type VmRecord, vmsBucket } from '../../common/records.ts';
import type { ServiceContext } from '../../common/service.ts';
import { type ParsedRule, presentRule, type RuleRecord, ruleOfRecord, rulesBucket } from '../models/rule.ts';
import { ownerQuery, required, ruleParams } from '../models/rule-params.ts';
import { ruleNames } from '../models/targets.ts';
import { notTheOwner, readRule } from './rules.ts';

/** How many machines VMAPI is asked for at once: their UUIDs stand in the URL. */
const page = 100;

/** Which machines a rule names, and which rules name a machine. */
export function ruleVmRoutes(context: ServiceContext): void {
  const { app, kv } = context;
  const schema = { params: ruleParams, querystring: ownerQuery };

  app.get('/rules/:uuid/vms', { schema }, async (request) => {
    const rule = ruleOfRecord((await readRule(kv, request.params.uuid)).value);
    const owner = required('owner_uuid', request.query.owner_uuid);
    if (rule.owner_uuid !== undefined && rule.owner_uuid !== owner) throw notTheOwner();
    return vmsNamedBy(context, rule, owner);
  });

  app.get('/firewalls/vms/:uuid', { schema }, async (request) => {
    const vm = await kv.tryGet<VmRecord>(vmsBucket.name, request.params.uuid);
    const { owner_uuid } = request.query;
    if (vm === undefined || (owner_uuid !== undefined && owner_uuid !== vm.value.owner_uuid))
      throw new CongerError('ResourceNotFound', `VM ${request.params.uuid} not found`);
    const filter = `(|(owner=${vm.value.owner_uuid})(&(uuid=*)(!(owner=*))))`;
    const rules = await kv.find<RuleRecord>(rulesBucket.name, filter, { noLimit: true });
    return rules.objects
      .filter((rule) => ruleNames(ruleOfRecord(rule.value), vm.value))
      .map((rule) => presentRule(rule.value));
  });
}

/** The owner's machines that a rule names, as VMAPI answers them; not those that have no addresses. */
async function vmsNamedBy({ kv, client }: ServiceContext, rule: ParsedRule, owner: string) {
  const live = `(&(owner_uuid=${owner})(!(state=destroyed))(!(state=failed))(!(state=provisioning)))`;
  const records = await kv.find<VmRecord>(vmsBucket.name, live, { noLimit: true });
  const uuids = records.objects.filter((vm) => ruleNames(rule, vm.value)).map((vm) => vm.key);
  const vms: Record<string, unknown>[] = [];
  for (let done = 0; done < uuids.length; done += page) {
    const query = { uuids: uuids.slice(done, done + page).join(',') };
    vms.push(...vmList.parse((await client('vmapi').get('/vms', { query })).body));
  }
  return vms;
}

const vmList = z.array(z.record(z.string(), z.unknown()));
