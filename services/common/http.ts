import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import websocket from '@fastify/websocket';
import {
  type ConnectionError,
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  fastify,
  LogController,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
  type RawServerDefault,
} from 'fastify';
import {
  hasZodFastifySchemaValidationErrors,
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod';
import {
  CongerError,
  type ErrorCode,
  type FieldError,
  isCongerError,
  messageOf,
} from '../../runtime/errors.ts';
import type { Logger } from '../../runtime/log.ts';
import { metrics, timer } from '../../runtime/metrics.ts';
import { newTrace, withTrace } from '../../runtime/trace.ts';

/** A service's HTTP server: fastify, with zod schemas for what comes in and for the OpenAPI document at /docs. */
export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  ZodTypeProvider
>;

/** How a service reports parameters that do not fit its schema; each of Triton's APIs has its own way. */
export interface ValidationStyle {
  readonly code: Extract<ErrorCode, 'InvalidParameters' | 'ValidationFailed'>;
  readonly status: number;
  readonly message: string;
  /** The message where nothing is wrong but that parameters are missing. */
  readonly missingMessage: string;
  /** The `code` of a field that is there and wrong: `Invalid` (CNAPI, VMAPI) or `InvalidParameter` (NAPI, FWAPI). */
  readonly invalidCode: string;
  missing(field: string): FieldError;
  unknown(fields: readonly string[]): readonly FieldError[];
}

function invalidEach(fields: readonly string[]): FieldError[] {
  return fields.map((field) => ({
    field,
    code: 'Invalid',
    message: `${field} is not an explicitly defined parameter`,
  }));
}

/** NAPI's and FWAPI's, whose checks are those of Triton's restify-warden. */
const warden: ValidationStyle = {
  code: 'InvalidParameters',
  status: 422,
  message: 'Invalid parameters',
  missingMessage: 'Missing parameters',
  invalidCode: 'InvalidParameter',
  missing: (field) => ({ field, code: 'MissingParameter', message: 'Missing parameter' }),
  unknown: (fields) => [
    { field: fields, code: 'UnknownParameters', message: `Unknown parameters: ${fields.join(', ')}` },
  ],
};

export const validationStyles = {
  cnapi: {
    code: 'InvalidParameters',
    status: 500,
    message: 'Request parameters failed validation',
    missingMessage: 'Request parameters failed validation',
    invalidCode: 'Invalid',
    missing: (field) => ({ field, code: 'Invalid', message: `Invalid value for param '${field}'` }),
    unknown: invalidEach,
  },
  vmapi: {
    code: 'ValidationFailed',
    status: 409,
    message: 'Invalid Parameters',
    missingMessage: 'Invalid Parameters',
    invalidCode: 'Invalid',
    missing: (field) => ({ field, code: 'MissingParameter', message: 'missing parameter' }),
    unknown: invalidEach,
  },
  napi: warden,
  fwapi: warden,
  adminui: warden,
} as const satisfies Record<string, ValidationStyle>;

/** The largest body that a service reads, in bytes. */
export const bodyLimit = 1024 * 1024;

const requestSeconds = timer('conger_http_request_seconds', 'time to answer a REST request', [
  'method',
  'route',
  'status',
]);

export interface HttpOptions {
  readonly name: keyof typeof validationStyles;
  readonly instance: string;
  readonly log: Logger;
}

/**
 * Makes a service's HTTP server, not yet listening: bodies up to 1 MB, zod validation, errors in Triton's form
 * `{code, message, errors?}`, `x-request-id` taken from the request or made and always answered, /metrics, /docs.
 */
export async function createHttp({ name, instance, log }: HttpOptions): Promise<App> {
  const style = validationStyles[name];
  const app = fastify({
    bodyLimit,
    loggerInstance: log as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    forceCloseConnections: 'idle',
    return503OnClosing: true,
    clientErrorHandler: (error, socket) => answerBadClient(error, socket),
    genReqId: (raw) => {
      const given = raw.headers['x-request-id'] ?? raw.headers['request-id'];
      return newTrace(
        typeof given === 'string' && given.length > 0 && given.length <= 128 ? given : undefined,
      ).requestId;
    },
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 512 },
    // Errors of the router itself, which no error handler sees.
    frameworkErrors: (error, request, reply) => sendError(error, request, reply, style, log),
  }).withTypeProvider<ZodTypeProvider>();
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);

  app.addHook('onRequest', (request, reply, done) => {
    void reply
      .header('x-request-id', request.id)
      .header('x-server-name', instance)
      .header('server', 'conger');
    done();
  });
  // Not in onRequest: what follows the body's last chunk runs in the socket's context, not in the hook's.
  app.addHook('preValidation', (request, _reply, done) => {
    const parent = request.headers.traceparent;
    withTrace(newTrace(request.id, typeof parent === 'string' ? parent : undefined), done);
  });
  app.addHook('onResponse', async (request, reply) => {
    const status = reply.statusCode;
    requestSeconds.observe(
      { method: request.method, route: request.routeOptions.url ?? 'none', status },
      reply.elapsedTime / 1000,
    );
    const line = {
      req_id: request.id,
      method: request.method,
      url: request.url,
      status,
      ms: Math.round(reply.elapsedTime * 10) / 10,
    };
    if (status >= 500) log.warn(line, 'request');
    else log.info(line, 'request');
  });

  allowEmptyJson(app);
  app.setErrorHandler((error: FastifyError, request, reply) => sendError(error, request, reply, style, log));
  app.setNotFoundHandler((request, reply) => {
    void reply
      .code(404)
      .send({ code: 'ResourceNotFound', message: `${request.url.split('?')[0]} does not exist` });
  });

  await app.register(swagger, {
    openapi: { openapi: '3.1.0', info: { title: `Conger ${name.toUpperCase()}`, version: '1.0.0' } },
    transform: jsonSchemaTransform,
  });
  await app.register(swaggerUi, { routePrefix: '/docs' });
  await app.register(websocket, { options: { maxPayload: 16 * 1024 * 1024 } });
  app.get('/metrics', { schema: { hide: true } }, async (_request, reply) => {
    void reply.type(metrics.contentType);
    return metrics.metrics();
  });
  return app;
}

/**
 * A connection that asked for nothing in time is closed without a word: clients keep spare ones, and would take an
 * answer for that of the request that they send next.
 */
function answerBadClient(error: ConnectionError, socket: Socket): void {
  if (socket.bytesRead === 0 || !socket.writable) {
    socket.destroy();
    return;
  }
  const late = error.code === 'ERR_HTTP_REQUEST_TIMEOUT';
  const status = late ? '408 Request Timeout' : '400 Bad Request';
  const body = JSON.stringify({
    code: 'BadRequest',
    message: late ? 'the request did not come in time' : 'the request is not HTTP',
  });
  socket.end(
    `HTTP/1.1 ${status}\r\nContent-Length: ${body.length}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n${body}`,
  );
}

/** Triton's clients send `content-type: application/json` with an empty body on actions: that is `{}`. */
function allowEmptyJson(app: App): void {
  app.removeContentTypeParser('application/json');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    const text = String(body);
    if (text.trim() === '') return done(null, {});
    try {
      done(null, JSON.parse(text));
    } catch (error) {
      done(new CongerError('InvalidContent', `Invalid JSON: ${messageOf(error)}`));
    }
  });
}

function sendError(
  error: FastifyError,
  request: FastifyRequest,
  reply: FastifyReply,
  style: ValidationStyle,
  log: Logger,
): void {
  const known = toCongerError(error, request, style);
  if (known !== undefined) {
    if (known.status === 503) void reply.header('retry-after', '1');
    void reply.code(known.status).send({
      ...known.context,
      code: known.code,
      message: known.message,
      ...(known.errors === undefined ? {} : { errors: known.errors }),
    });
    return;
  }
  log.error({ err: error, req_id: request.id, url: request.url }, `request failed: ${messageOf(error)}`);
  void reply.code(500).send({ code: 'InternalError', message: `internal error; request ${request.id}` });
}

function toCongerError(
  error: FastifyError,
  request: FastifyRequest,
  style: ValidationStyle,
): CongerError | undefined {
  if (isCongerError(error, 'InvalidIndexTypeError')) {
    return validationError(style, [{ field: 'parameters', code: style.invalidCode, message: error.message }]);
  }
  if (isCongerError(error)) {
    return isCongerError(error, 'InternalError') ? undefined : error;
  }
  if (hasZodFastifySchemaValidationErrors(error)) {
    const given = givenIn(request, error.validationContext);
    return validationError(
      style,
      error.validation.flatMap((issue) => fieldErrors(issue, given, style)),
    );
  }
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new CongerError('RequestEntityTooLarge', `the body is larger than ${bodyLimit} bytes`);
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new CongerError('BadRequest', 'the body is not application/json', { status: 415 });
    default:
      return error.statusCode !== undefined && error.statusCode < 500
        ? new CongerError('BadRequest', error.message, { status: error.statusCode })
        : undefined;
  }
}

/** One zod issue, in the form that fastify-type-provider-zod gives it. */
interface ZodIssue {
  readonly keyword: string;
  readonly instancePath: string;
  readonly message?: string | undefined;
  readonly params: Readonly<Record<string, unknown>>;
}

/** The part of a request that did not fit its schema, as it came. */
function givenIn(request: FastifyRequest, context: string | undefined): unknown {
  if (context === 'querystring') return request.query;
  return context === 'params' ? request.params : request.body;
}

function fieldErrors(issue: ZodIssue, given: unknown, style: ValidationStyle): readonly FieldError[] {
  const path = issue.instancePath.split('/').filter((part) => part !== '');
  if (issue.keyword === 'unrecognized_keys') {
    const keys = issue.params.keys as string[];
    return style.unknown(keys.map((key) => [...path, key].join('.')));
  }
  const field = path.join('.');
  if (field === '')
    return [{ field: 'parameters', code: style.invalidCode, message: 'Parameters must be objects' }];
  if (valueAt(given, path) === undefined) return [style.missing(field)];
  const invalid = (issue.params.params as { invalid?: readonly unknown[] } | undefined)?.invalid;
  return [
    {
      field,
      code: style.invalidCode,
      message: issue.message ?? 'is not valid',
      ...(invalid === undefined ? {} : { invalid }),
    },
  ];
}

function valueAt(given: unknown, path: readonly string[]): unknown {
  let value = given;
  for (const key of path) value = (value as Record<string, unknown> | null | undefined)?.[key];
  return value;
}

/**
 * What tells a repeated request from a new one: its `idempotency-key`; or else its `x-request-id` with what it asks for,
 * as clients pass one id on with all that they ask for on a request's behalf. What a request creates is named after it,
 * so that a repeat finds it there.
 */
export function requestKey(request: FastifyRequest): string {
  const given = request.headers['idempotency-key'];
  if (typeof given === 'string' && given.length > 0) return given;
  const asked = JSON.stringify([request.method, request.url, request.body]);
  return `${request.id}/${createHash('sha1').update(asked).digest('hex')}`;
}

/** The error of a service for invalid fields, in the service's own style. */
export function validationError(style: ValidationStyle, errors: readonly FieldError[]): CongerError {
  const sorted = [...errors].sort((a, b) => (String(a.field) < String(b.field) ? -1 : 1));
  const missing = errors.every((error) => error.code === 'MissingParameter');
  return new CongerError(style.code, missing ? style.missingMessage : style.message, {
    status: style.status,
    errors: sorted,
  });
}

/** How long requests that are under way have to end once a service closes, in milliseconds. */
export const closePauseMs = 1_000;

/**
 * Closes a server: it takes nothing new, and what is under way may end. After a pause every connection is closed, also
 * one on which nothing was ever sent: Node does not count it as idle, and would wait for it for ever.
 */
export async function closeHttp(app: App, pauseMs = closePauseMs): Promise<void> {
  const timer = setTimeout(() => app.server.closeAllConnections(), pauseMs);
  try {
    await app.close();
  } finally {
    clearTimeout(timer);
  }
}
