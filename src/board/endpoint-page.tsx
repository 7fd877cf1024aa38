/** @jsxImportSource hono/jsx */
/**
 * The page of a registered endpoint.
 */
import type { FC } from "hono/jsx";
import type { Delivery } from "../log/deliveries.ts";
import type { MissedPage } from "../missed/missed.ts";
import { ENDPOINT_LOG_SIZE } from "../operations/endpoint-details.ts";
import { describeRetention, formatDuration } from "../operations/moments.ts";
import type { Explanation } from "../registry/explain.ts";
import type { EndpointWithHealth } from "../registry/registry.ts";
import { printable } from "../runtime/printable.ts";
import { CodeBlock } from "./copy-button.tsx";
import { DeliveryCard } from "./delivery-card.tsx";
import { ExplainPanel } from "./endpoint-explain.tsx";
import { EndpointForms } from "./endpoint-forms.tsx";
import { MissedPanel } from "./endpoint-missed.tsx";
import { endpointPath } from "./endpoint-path.ts";
import { ShownUrl } from "./endpoint-rows.tsx";
import { EndpointSettings } from "./endpoint-settings.tsx";
import { EndpointHealthNote, EndpointStateBadge } from "./endpoint-state.tsx";
import { Layout, LiveSwitch, type Notice, type Site, userPath } from "./layout.tsx";

export interface EndpointPageProps {
  readonly site: Site;
  readonly userId: string;
  readonly endpoint: EndpointWithHealth;
  readonly missed: MissedPage;
  /** Its last attempts, by event. */
  readonly deliveries: readonly Delivery[];
  readonly eventTypes: readonly string[];
  readonly explanation: Explanation | undefined;
  /** Whether the board has a key to seal new secrets with. */
  readonly canRotate: boolean;
  readonly notice: Notice | undefined;
  /** Epoch ms. */
  readonly now: number;
}

export const EndpointPage: FC<EndpointPageProps> = (props) => {
  const { site, userId, endpoint, missed, deliveries, eventTypes, explanation, canRotate, notice, now } = props;
  const { id, isDamaged } = endpoint;
  return (
    <Layout site={site} title={`Endpoint ${id}`} notice={notice} search="" isLive>
      <p class="back">
        <a href={userPath(userId)}>← {userId}</a>
      </p>
      <div id="live" class="endpoint-page">
        <div class="head">
          <div>
            <p class="eyebrow">Endpoint</p>
            <h1 class="id">{id}</h1>
            <p class="endpoint">
              <ShownUrl url={endpoint.url} />
            </p>
            <div class="endpoint-health">
              <EndpointStateBadge endpoint={endpoint} now={now} />
              <span class="note">
                <EndpointHealthNote endpoint={endpoint} now={now} />
              </span>
            </div>
          </div>
          <LiveSwitch path={endpointPath(userId, id, "", { explain: explanation?.event })} />
        </div>
        {isDamaged ? <Damaged /> : <EndpointSettings endpoint={endpoint} now={now} />}
        <MissedPanel site={site} userId={userId} endpoint={endpoint} missed={missed} now={now} />
        {!site.isReadonly && <EndpointForms {...{ userId, endpoint, missed, canRotate, now }} />}
        <section aria-labelledby="attempts-title">
          <h2 id="attempts-title" class="section-title">
            Attempts
          </h2>
          <p class="legend">
            <span>
              {deliveries.length === 0 && "None yet. "}The log keeps the last {ENDPOINT_LOG_SIZE} of each endpoint, for{" "}
              {describeRetention(site.logAgeMs)}.
            </span>
            {deliveries.length > 0 && (
              <span>
                <i class="scale" aria-hidden="true" /> bars: 0 to {formatDuration(site.timeoutMs)}, the timeout
              </span>
            )}
          </p>
          <ol class="deliveries">
            {deliveries.map((delivery) => (
              <DeliveryCard site={site} userId={userId} delivery={delivery} linksEndpoint={false} now={now} />
            ))}
          </ol>
        </section>
        <ExplainPanel {...{ userId, id, eventTypes, explanation }} />
      </div>
    </Layout>
  );
};

const Damaged: FC = () => (
  <section class="panel" id="damaged">
    <h2>What is stored of this endpoint cannot be read</h2>
    <p>
      Its events fail with this reason, and can be redelivered once it is mended: the backend puts it anew, or deletes
      it.
    </p>
  </section>
);

interface NewSecretProps {
  readonly site: Site;
  readonly userId: string;
  readonly endpoint: Pick<EndpointWithHealth, "id" | "secrets">;
  readonly secret: string;
}

/** A new secret, this once. */
export const NewSecretPage: FC<NewSecretProps> = ({ site, userId, endpoint, secret }) => (
  <Layout site={site} title={`New secret of ${endpoint.id}`} search="" isLive>
    <section class="panel preview" id="new-secret">
      <h1>The new secret</h1>
      <p>
        Endpoint <code>{endpoint.id}</code> of user <code>{printable(userId)}</code> signs with it from now on
        {endpoint.secrets.length > 1 ? ", and for a while with the previous one, too" : ""}. It is shown this once: give
        it to the receiver before you leave the page.
      </p>
      <CodeBlock id="secret" what="secret" text={secret} />
      <p>
        <a href={endpointPath(userId, endpoint.id)}>Back to the endpoint</a>
      </p>
    </section>
  </Layout>
);
