import type { FastifyRequest, FastifySchemaCompiler } from 'fastify';
import type { z } from 'zod';
import type { CongerError, FieldError } from '../../../runtime/errors.ts';
import { validationError, validationStyles } from '../../common/http.ts';

/** VMAPI's validation error: 409 ValidationFailed, each field with Triton's code and words. */
export function invalid(...errors: readonly FieldError[]): CongerError {
  return validationError(validationStyles.vmapi, errors);
}

export function invalidField(field: string, message = 'Invalid parameter'): FieldError {
  return { field, code: 'Invalid', message };
}

/** Checks each part of a request, and reports what is wrong with it as VMAPI does. */
export const validatorCompiler: FastifySchemaCompiler<z.ZodType> = ({ schema }) => {
  return (data: unknown) => {
    const parsed = schema.safeParse(data);
    if (parsed.success) return { value: parsed.data };
    return { error: invalid(...parsed.error.issues.flatMap((issue) => errorsOf(issue, data))) };
  };
};

/** @throws CongerError ValidationFailed */
export function parse<T extends z.ZodType>(schema: T, data: unknown): z.output<T> {
  const parsed = schema.safeParse(data);
  if (parsed.success) return parsed.data;
  throw invalid(...parsed.error.issues.flatMap((issue) => errorsOf(issue, data)));
}

function errorsOf(issue: z.core.$ZodIssue, data: unknown): FieldError[] {
  if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => invalidField(key));
  const { path, value } = locate(data, issue.path);
  const field = path.join('.') || '(body)';
  return value === undefined
    ? [{ field, code: 'MissingParameter', message: 'missing parameter' }]
    : [invalidField(field, issue.message)];
}

/** The field that a path leads to, as it was given: what a schema made of a text is not in it. */
function locate(data: unknown, path: readonly PropertyKey[]): { path: PropertyKey[]; value: unknown } {
  const walked: PropertyKey[] = [];
  let value = data;
  for (const key of path) {
    if (typeof value !== 'object' || value === null) break;
    walked.push(key);
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return { path: walked, value };
}

/** Parameters may stand in the query as well as in the body, as restify has it; the body's go first. */
export async function mergeQuery(request: FastifyRequest): Promise<void> {
  const body: unknown = request.body ?? {};
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw invalid(invalidField('(body)'));
  request.body = { ...(request.query as object), ...body };
}
