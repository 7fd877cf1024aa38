/**
 * The settings of registered endpoints. Pure.
 */
import type { z } from "zod";
import { isEndpointUrl, parseUrl } from "../delivery/endpoint-url.ts";
import { plainSecretProblem } from "../delivery/secret.ts";
import { setting } from "./setting.ts";
import { flag, integer, parsedBy, upToDuration } from "./values.ts";

const MAX_ENDPOINTS = 1_000; // of a user: all are read at once
const DAY_MS = 24 * 60 * 60 * 1000;
const SECRET_FORM = "a secret as endpoints have it, as in whsec_ and base64";

const parseNoticeUrl = (text: string): URL | undefined => (isEndpointUrl(text) ? parseUrl(text) : undefined);
const parseNoticeSecret = (text: string): string | undefined =>
  plainSecretProblem(text) === undefined ? text : undefined;

/** Part of the table of settings, in the order of the docs. */
export const ENDPOINT_SETTINGS = {
  registry: setting(
    "WEBHOOK_REGISTRY",
    "0",
    flag,
    "0 or 1",
    "1 accepts events that name no endpoint: they go to all of the user's registered endpoints that want them",
  ),
  maxEndpoints: setting(
    "WEBHOOK_MAX_ENDPOINTS",
    "50",
    integer(1, MAX_ENDPOINTS),
    `a whole number from 1 to ${MAX_ENDPOINTS}`,
    "maximum endpoints that the command registers for each user; backends have the option `maxEndpoints`",
  ),
  allowPlain: setting(
    "WEBHOOK_ALLOW_PLAIN",
    "0",
    flag,
    "0 or 1",
    "1 registers endpoints' secrets unsealed if `WEBHOOK_SECRET_KEYS` is unset; for tests only",
  ),
  disableAfterMs: setting(
    "WEBHOOK_DISABLE_AFTER",
    "5d",
    upToDuration(365 * DAY_MS),
    "0, or a duration of up to 365d",
    "how long a registered endpoint may fail, at least 20 attempts long, before it is disabled; 0 for ever",
  ),
  notices: setting(
    "WEBHOOK_NOTICES",
    "0",
    flag,
    "0 or 1",
    "1 adds a job to the queue `webhooks-notices` when a registered endpoint fails, is disabled, or recovers",
  ),
  noticeUrl: setting(
    "WEBHOOK_NOTICE_URL",
    "",
    parsedBy(parseNoticeUrl).optional() as z.ZodType<URL | undefined, string>,
    "an http or https URL without user name and password",
    "where workers deliver these notices as webhooks, instead",
    { isSecret: true },
  ),
  noticeSecret: setting(
    "WEBHOOK_NOTICE_SECRET",
    "",
    parsedBy(parseNoticeSecret).optional() as z.ZodType<string | undefined, string>,
    SECRET_FORM,
    "signs them; required with `WEBHOOK_NOTICE_URL`",
    { isSecret: true },
  ),
};
