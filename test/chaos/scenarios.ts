/** What goes wrong in a run. */
export interface Scenario {
  readonly name: string;
  readonly what: string;
  /** Which faults are drawn from, by their names (faults.ts). */
  readonly faults: RegExp;
  /** How many there are, one after the other. */
  readonly count: number;
  /** false: no failpoint is armed. */
  readonly failpoints?: boolean;
  /** How many services there are (2). */
  readonly services?: number;
}

const any = /^(process|network|postgres|kafka):(?!pause-long$)/;

export const scenarios: readonly Scenario[] = [
  { name: 'any', what: 'faults of every kind, and failpoints', faults: any, count: 3 },
  { name: 'failpoints', what: 'nothing but failpoints', faults: /^process:kill$/, count: 1 },
  { name: 'processes', what: 'processes are killed and stopped', faults: /^process:/, count: 3, services: 3 },
  { name: 'network', what: 'connections break', faults: /^network:/, count: 4 },
  {
    name: 'postgres',
    what: 'PostgreSQL ends connections, stops and crashes',
    faults: /^postgres:/,
    count: 3,
  },
  { name: 'broker', what: 'Kafka’s broker is killed and comes back', faults: /^kafka:restart$/, count: 1 },
  { name: 'quiet', what: 'nothing goes wrong', faults: /^$/, count: 0, failpoints: false },
];

/** Failures that others have had with changefeeds, and the scenario or test that shows they are none here. */
export const knownFailures: readonly (readonly [failure: string, where: string])[] = [];
