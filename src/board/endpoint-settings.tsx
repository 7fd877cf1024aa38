/** @jsxImportSource hono/jsx */
/**
 * The settings of a registered endpoint. Secrets and the values of headers are never among them.
 */
import type { Child, FC } from "hono/jsx";
import { formatExact, formatIn } from "../operations/moments.ts";
import type { EndpointWithHealth } from "../registry/registry.ts";
import { printable } from "../runtime/printable.ts";
import { describeWanted } from "./endpoint-state.tsx";
import { Ago } from "./layout.tsx";

interface SettingsProps {
  readonly endpoint: EndpointWithHealth;
  /** Epoch ms. */
  readonly now: number;
}

export const EndpointSettings: FC<SettingsProps> = ({ endpoint, now }) => {
  const { description, events, rateLimit, headers, metadata, secrets, createdAt, updatedAt } = endpoint;
  return (
    <section class="panel" id="settings">
      <h2>Settings</h2>
      <dl class="settings">
        {description !== "" && (
          <Setting name="Description" isWide={description.length > WIDE}>
            {printable(description)}
          </Setting>
        )}
        <Setting name="Wants">{printable(describeWanted(events))}</Setting>
        <Setting name="Rate limit">
          {rateLimit === null
            ? "none"
            : `${rateLimit.perSecond.toLocaleString("en-US")} a second, ${(rateLimit.burst ?? 1).toLocaleString("en-US")} at once`}
        </Setting>
        <Setting name={secrets.length === 1 ? "Secret" : "Secrets"}>
          {secrets.length === 0 && "none that signs"}
          {secrets.map((secret, index) => (
            <Secret secret={secret} isCurrent={index === 0} now={now} />
          ))}
        </Setting>
        <Pairs name="Headers" pairs={headers} />
        <Pairs name="Metadata" pairs={metadata} />
        <Setting name="Created">
          <Ago at={createdAt} now={now} />
        </Setting>
        {updatedAt !== createdAt && (
          <Setting name="Changed">
            <Ago at={updatedAt} now={now} />
          </Setting>
        )}
      </dl>
    </section>
  );
};

/** Characters of a setting that gets a row of its own. */
const WIDE = 120;

const Setting: FC<{ name: string; isWide?: boolean; children?: Child }> = ({ name, isWide = false, children }) => (
  <div class={isWide ? "wide" : undefined}>
    <dt>{name}</dt>
    <dd>{children}</dd>
  </div>
);

const Secret: FC<{ secret: EndpointWithHealth["secrets"][number]; isCurrent: boolean; now: number }> = (props) => {
  const { secret, isCurrent, now } = props;
  const { createdAt, expiresAt } = secret;
  return (
    <p>
      {isCurrent ? "current" : "previous"}, made <Ago at={createdAt} now={now} />
      {expiresAt !== undefined && (
        <>
          , stops signing{" "}
          <time datetime={new Date(expiresAt).toISOString()} title={formatExact(expiresAt)}>
            {formatIn(expiresAt - now)}
          </time>
        </>
      )}
    </p>
  );
};

const Pairs: FC<{ name: string; pairs: Readonly<Record<string, string>> }> = ({ name, pairs }) => {
  const entries = Object.entries(pairs);
  if (entries.length === 0) return null;
  return (
    <Setting name={name} isWide={entries.some(([key, value]) => key.length + value.length > WIDE)}>
      {entries.map(([key, value]) => (
        <p>
          <code>{printable(key)}</code>: {printable(value)}
        </p>
      ))}
    </Setting>
  );
};
