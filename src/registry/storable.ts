/**
 * Settings of an endpoint as they are stored: with the values of headers sealed.
 */
import type { CheckedSettings, StorableSettings } from "./document.ts";
import type { EndpointDocument } from "./endpoint.ts";
import { type SecretKeeping, sealHeaders } from "./secrets.ts";

/**
 * Settings as they are stored. That there was a rate limit once is stored too.
 *
 * @param present  what is stored of the endpoint: of it, values that stay the same are kept
 * @throws  UsageError when headers cannot be sealed
 */
export function storable(
  settings: Partial<CheckedSettings>,
  present: EndpointDocument | undefined,
  userId: string,
  keeping: SecretKeeping,
): Partial<StorableSettings> {
  const { headers, rateLimit, ...others } = settings;
  const neverLimited = rateLimit === null && present?.rateLimit === undefined;
  return {
    ...others,
    rateLimit: neverLimited ? undefined : rateLimit,
    headers: headers && sealHeaders(headers, present?.headers, userId, keeping),
  };
}

/** All settings as they are stored. @throws  like {@link storable} */
export function storableWhole(
  settings: CheckedSettings,
  ...others: [present: EndpointDocument | undefined, userId: string, keeping: SecretKeeping]
): StorableSettings {
  const { url, rateLimit = null } = settings;
  return { ...storable({ ...settings, rateLimit }, ...others), url };
}
