import { createRequire } from 'node:module';
import { promisify } from 'node:util';

export interface JobAnswer {
  readonly vm_uuid: string;
  readonly job_uuid: string;
}
export type Obj = Readonly<Record<string, unknown>>;

/** What Triton's client throws for an error answer. */
export interface SdcError extends Error {
  readonly statusCode: number;
  readonly restCode: string;
  readonly body: { readonly code: string; readonly message: string; readonly errors?: readonly Obj[] };
}

type Call<A extends unknown[], R> = (...args: A) => Promise<R>;

export interface SdcVmapi {
  readonly listVms: Call<[Obj], Obj[]>;
  readonly countVms: Call<[Obj], number>;
  readonly getVm: Call<[Obj], Obj>;
  readonly createVm: Call<[Obj, Obj?], JobAnswer>;
  readonly startVm: Call<[Obj], JobAnswer>;
  readonly stopVm: Call<[Obj], JobAnswer>;
  readonly rebootVm: Call<[Obj], JobAnswer>;
  readonly deleteVm: Call<[Obj], JobAnswer>;
  readonly updateVm: Call<[Obj], JobAnswer>;
  readonly addNics: Call<[Obj], JobAnswer>;
  readonly removeNics: Call<[Obj], JobAnswer>;
  readonly listMetadata: Call<[string, Obj], Obj>;
  readonly getMetadata: Call<[string, string, Obj], unknown>;
  readonly addMetadata: Call<[string, Obj], JobAnswer>;
  readonly setMetadata: Call<[string, Obj], JobAnswer>;
  readonly deleteMetadata: Call<[string, Obj, string], JobAnswer>;
  readonly deleteAllMetadata: Call<[string, Obj], JobAnswer>;
  readonly listJobs: Call<[Obj], Obj[]>;
  readonly getJob: Call<[string], Obj>;
  readonly ping: Call<[], Obj>;
  close(): void;
}

const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, fatal() {}, child: () => quiet };

/** Triton's own client of VMAPI, its calls as promises of their first answer. */
export function sdcVmapi(url: string): SdcVmapi {
  const { VMAPI } = createRequire(import.meta.url)('sdc-clients') as {
    VMAPI: new (options: object) => Record<string, (...args: unknown[]) => void>;
  };
  const client = new VMAPI({ url, log: quiet, agent: false, retry: false });
  return new Proxy({} as SdcVmapi, {
    get: (_target, name) => {
      const method = client[String(name)]?.bind(client);
      if (method === undefined) return undefined;
      return name === 'close' ? method : promisify(method as (...args: never[]) => void);
    },
  });
}
