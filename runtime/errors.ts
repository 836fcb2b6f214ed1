/**
 * The registry of errors: every error that Conger itself raises towards a client, with the HTTP status it has on
 * the REST services. The names of the KV tier are Moray's, those of the services Triton's; clients match on them.
 */
export const errorTable = {
  // KV tier (names as in Moray)
  BucketConflictError: { status: 409, help: 'the bucket exists, or is being changed by somebody else' },
  BucketNotFoundError: { status: 404, help: 'the bucket does not exist' },
  BucketVersionError: { status: 409, help: 'the bucket has a newer version than the one given' },
  EtagConflictError: {
    status: 409,
    help: 'the object was changed since it was read; read it again and retry',
  },
  FieldUpdateError: { status: 400, help: 'an update names no fields' },
  HookFailedError: {
    status: 409,
    help: 'a hook of the bucket refused the write; it has the hook’s own name',
  },
  HookTimeoutError: { status: 503, help: 'a hook of the bucket took too long; nothing was written' },
  InvalidBucketConfigError: { status: 400, help: 'the bucket’s configuration is not valid' },
  InvalidBucketNameError: {
    status: 400,
    help: 'a bucket’s name is 1 to 63 of a-z, A-Z, 0-9, _ and starts with a letter',
  },
  InvalidIndexDefinitionError: { status: 400, help: 'an index’s definition is not valid' },
  InvalidIndexTypeError: { status: 400, help: 'a value does not have its index’s type' },
  InvalidQueryError: { status: 400, help: 'the filter or its options are not valid' },
  InvalidRequireError: { status: 400, help: 'a hook requires a module that it may not have' },
  InvocationError: { status: 400, help: 'the call’s arguments are not valid' },
  NotFunctionError: { status: 400, help: 'a trigger is not a registered function' },
  NotIndexedError: { status: 400, help: 'a required field has no usable index' },
  NotNullableError: { status: 400, help: 'an indexed field may not be null' },
  ObjectNotFoundError: { status: 404, help: 'the object does not exist' },
  OperationNotAllowedError: { status: 403, help: 'this server does not allow the operation' },
  OverloadedError: { status: 503, help: 'too much is waiting; try again shortly' },
  QueryTimeoutError: { status: 503, help: 'the query took longer than its timeout' },
  NoDatabasePeersError: { status: 503, help: 'PostgreSQL cannot be reached; try again shortly' },
  UniqueAttributeError: { status: 409, help: 'a unique field’s value is already in use' },
  UnknownHookError: {
    status: 503,
    help: 'the bucket has a hook that this server cannot run; register it (CONGER_HOOKS)',
  },
  UnknownOutcomeError: {
    status: 503,
    help: 'the connection broke in mid-write: the write may or may not have happened',
  },
  UnsupportedError: { status: 501, help: 'this server does not know the call' },
  InternalError: { status: 500, help: 'a fault inside the server; its log has the request id' },
  // Services (names as in Triton)
  ResourceNotFound: { status: 404, help: 'there is no such resource' },
  InvalidParameters: {
    status: 422,
    help: 'parameters are not valid; `errors` lists them (500 on CNAPI, as in Triton)',
  },
  ValidationFailed: { status: 409, help: 'parameters are not valid; `errors` lists them' },
  Forbidden: { status: 403, help: 'the resource is another owner’s' },
  MissingParameter: { status: 409, help: 'the request lacks a parameter' },
  RuleExistsError: { status: 422, help: 'there is a rule with this UUID' },
  InUse: { status: 422, help: 'the resource is used by others, which `errors` lists' },
  SubnetFull: { status: 507, help: 'no free addresses are left in the network' },
  PreconditionFailed: { status: 412, help: 'the etag given in If-Match is not the resource’s' },
  Conflict: { status: 409, help: 'the resource’s state does not allow the operation' },
  InvalidContent: { status: 400, help: 'the body is not valid JSON' },
  BadRequest: { status: 400, help: 'the request is malformed' },
  RequestEntityTooLarge: { status: 413, help: 'a body may be at most 1 MB' },
  MethodNotAllowed: { status: 405, help: 'the path does not know the method' },
  ServiceUnavailable: { status: 503, help: 'a part this needs is not reachable; try again shortly' },
  UnallocatedVM: { status: 409, help: 'the machine has not been provisioned yet' },
  JobFailed: { status: 500, help: 'the job that the request waited for has failed' },
  ServerNotRunning: { status: 409, help: 'the compute node is not running' },
  NoAllocatableServersError: { status: 409, help: 'no compute node has room for the machine' },
  PositionGone: { status: 410, help: 'the position is no longer held; take a snapshot and go on from there' },
  SlowReader: {
    status: 503,
    help: 'the reader fell too far behind and was cut off; resume from the last position',
  },
} as const satisfies Record<string, { status: number; help: string }>;

export type ErrorCode = keyof typeof errorTable;

/** One invalid field, in the form that NAPI's and FWAPI's clients expect. */
export interface FieldError {
  /** Several where they are wrong together: parameters that are not known. */
  readonly field: string | readonly string[];
  readonly code: string;
  readonly message: string;
  readonly invalid?: readonly unknown[];
}

export interface ErrorDetail {
  /** Overrides the table's HTTP status, where one service answers otherwise. */
  readonly status?: number;
  /** The invalid fields of a request. */
  readonly errors?: readonly FieldError[];
  /** What a program needs to react (Moray's `context`). */
  readonly context?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/** Every error that reaches a client. `code` and `name` are the same, and are part of the wire. */
export class CongerError extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly errors: readonly FieldError[] | undefined;
  readonly context: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, detail.cause === undefined ? undefined : { cause: detail.cause });
    this.name = code;
    this.code = code;
    this.status = detail.status ?? errorTable[code].status;
    this.errors = detail.errors;
    this.context = detail.context ?? {};
  }
}

/** Whether `error` is a CongerError, of one of `codes` if any are given. */
export function isCongerError(error: unknown, ...codes: ErrorCode[]): error is CongerError {
  return error instanceof CongerError && (codes.length === 0 || codes.includes(error.code));
}

/** The error's message, whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
