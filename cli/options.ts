/** What a datacenter is brought up with: the options of `conger up`, and those of tests. */
export interface DatacenterOptions {
  /** Directory of data, logs and endpoints.json. */
  readonly home: string;
  /** Of each of CNAPI, VMAPI, NAPI and FWAPI. Default 2. */
  readonly instances?: number;
  /** Captures, of which one captures and the others wait to take over. Default 1. */
  readonly captures?: number;
  /** Compute nodes. Default 2. */
  readonly nodes?: number;
  /** Compute nodes are simulated, also where they need not be. */
  readonly simulated?: boolean;
  /** First port; `free` takes any that are free. Default 2020. */
  readonly portBase?: number | 'free';
  /** URL of a PostgreSQL to use instead of one of its own. */
  readonly postgres?: string;
  /** Brokers to use (host:port), or true to start one; else the log is the embedded one. */
  readonly kafka?: boolean | readonly string[];
  /** How long starting waits until CNAPI has heard of every compute node. Default 20,000 ms. */
  readonly registeredMs?: number;
  /** Whether kvstore answers Moray's `sql` call. */
  readonly sql?: boolean;
  /** Whether Debian packages may be installed. Default true. */
  readonly install?: boolean;
  /** Directory of the compiled entry points. Default: dist/. */
  readonly built?: string;
  /** Over the environment of every process. */
  readonly env?: Readonly<Record<string, string>>;
  /** Progress, a line each. */
  readonly say?: (line: string) => void;
  /** Gives up starting. */
  readonly signal?: AbortSignal;
}
