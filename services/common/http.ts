import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import websocket from '@fastify/websocket';
import {
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
  /** The `code` of a field that is there and wrong: `Invalid` (VMAPI) or `InvalidParameter` (NAPI, FWAPI). */
  readonly invalidCode: string;
}

export const validationStyles = {
  cnapi: {
    code: 'InvalidParameters',
    status: 500,
    message: 'Request parameters failed validation',
    invalidCode: 'Invalid',
  },
  vmapi: { code: 'ValidationFailed', status: 409, message: 'Invalid Parameters', invalidCode: 'Invalid' },
  napi: {
    code: 'InvalidParameters',
    status: 422,
    message: 'Invalid parameters',
    invalidCode: 'InvalidParameter',
  },
  fwapi: {
    code: 'InvalidParameters',
    status: 422,
    message: 'Invalid parameters',
    invalidCode: 'InvalidParameter',
  },
  adminui: {
    code: 'InvalidParameters',
    status: 422,
    message: 'Invalid parameters',
    invalidCode: 'InvalidParameter',
  },
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
    genReqId: (raw) => {
      const given = raw.headers['x-request-id'] ?? raw.headers['request-id'];
      return newTrace(
        typeof given === 'string' && given.length > 0 && given.length <= 128 ? given : undefined,
      ).requestId;
    },
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 512 },
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

/** Triton's clients send `content-type: application/json` with an empty body on actions: that is `{}`. */
function allowEmptyJson(app: App): void {
  app.removeContentTypeParser('application/json');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    const text = String(body);
    if (text.trim() === '') return done(null, {});
    try {
      done(null, JSON.parse(text));
    } catch (error) {
      done(new CongerError('InvalidJSON', `Invalid JSON: ${messageOf(error)}`));
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
  const known = toCongerError(error, style);
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

function toCongerError(error: FastifyError, style: ValidationStyle): CongerError | undefined {
  if (isCongerError(error)) {
    return isCongerError(error, 'InternalError') ? undefined : error;
  }
  if (hasZodFastifySchemaValidationErrors(error))
    return validationError(
      style,
      error.validation.map((v) => issueOf(v, style)),
    );
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new CongerError('PayloadTooLarge', `the body is larger than ${bodyLimit} bytes`);
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

function issueOf(issue: ZodIssue, style: ValidationStyle): FieldError {
  const field = issue.instancePath.replace(/^\//, '').replaceAll('/', '.') || '(body)';
  const message = issue.message ?? 'is not valid';
  if (issue.keyword === 'unrecognized_keys') {
    const keys = (issue.params.keys as string[]).join(', ');
    return { field: keys, code: 'UnknownParameters', message: `unknown parameters: ${keys}` };
  }
  const missing = issue.keyword === 'invalid_type' && message.endsWith('received undefined');
  return missing
    ? { field, code: 'MissingParameter', message: 'missing parameter' }
    : { field, code: style.invalidCode, message };
}

/**
 * What tells a repeated request from a new one: its `idempotency-key`, or else its `x-request-id`. What a request
 * creates is named after it, so that a repeat finds it there.
 */
export function requestKey(request: FastifyRequest): string {
  const given = request.headers['idempotency-key'];
  return typeof given === 'string' && given.length > 0 ? given : request.id;
}

/** The error of a service for invalid fields, in the service's own style. */
export function validationError(style: ValidationStyle, errors: readonly FieldError[]): CongerError {
  const sorted = [...errors].sort((a, b) => (a.field < b.field ? -1 : 1));
  return new CongerError(style.code, style.message, { status: style.status, errors: sorted });
}
