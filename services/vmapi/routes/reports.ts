import { z } from 'zod';
import { CongerError } from '../../../runtime/errors.ts';
import { vmsBucket } from '../../common/records.ts';
import { updateObject } from '../../common/retry.ts';
import { readDesired } from '../models/desired.ts';
import { uuid } from '../models/params.ts';
import { applyReport, type Report, reportSchema } from '../models/report.ts';
import { presentVm, type Vm } from '../models/vm.ts';
import type { VmApi } from '../submit.ts';
import { vmPath } from './load.ts';

const syncQuery = z.looseObject({ server_uuid: uuid });
const syncBody = z.looseObject({ vms: z.record(z.string(), reportSchema) });

/** PUT /vms/:uuid and PUT /vms: how nodes say what became of their VMs. Repeats and late ones change nothing. */
export function reportRoutes({ context }: VmApi): void {
  const { app, kv } = context;

  async function hasToStay(vmUuid: string): Promise<boolean> {
    const desired = await readDesired(kv, vmUuid);
    return desired !== undefined && desired.value.body.state !== 'destroyed';
  }

  /** @throws CongerError ResourceNotFound */
  async function take(vmUuid: string, report: Report): Promise<Vm> {
    // A node that lost a VM which it is to have makes it again.
    const isToStay = report.state === 'destroyed' && (await hasToStay(vmUuid));
    const vm = await updateObject<Vm>(kv, vmsBucket.name, vmUuid, (present) =>
      present === undefined || isToStay ? undefined : applyReport(present.value, report, new Date()),
    );
    if (vm === undefined) throw new CongerError('ResourceNotFound', 'VM not found');
    return vm;
  }

  app.put('/vms/:uuid', { schema: { params: vmPath, body: reportSchema } }, async (request) =>
    presentVm(await take(request.params.uuid, request.body)),
  );

  app.put('/vms', { schema: { querystring: syncQuery, body: syncBody } }, async (request) => {
    const { server_uuid } = request.query;
    const { vms } = request.body;
    const filter = `(&(server_uuid=${server_uuid})(!(state=destroyed)))`;
    const known = await kv.find<Vm>(vmsBucket.name, filter, { noLimit: true });
    for (const { key } of known.objects) {
      // A VM that is neither there nor to be there is gone, whether the node ever said so or not.
      const report = vms[key] ?? { state: 'destroyed' };
      await take(key, { ...report, server_uuid });
    }
    return {};
  });
}
