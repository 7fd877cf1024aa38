/** @jsxImportSource hono/jsx */
/**
 * The search box, on every page.
 */
import type { FC } from "hono/jsx";
import { MAX_SEARCH } from "../operations/search.ts";

/** The form that searches for a user, an event, a delivery, a job, an endpoint or a host. */
export const Search: FC<{ value: string; isLarge?: boolean }> = ({ value, isLarge = false }) => (
  <search>
    <form class={isLarge ? "find large" : "find"} action="/search" method="get">
      <label for="find">{isLarge ? "Look up a user, event, delivery, job, endpoint or host" : "Find"}</label>
      <input
        id="find"
        name="q"
        value={value}
        placeholder={isLarge ? "usr_42, a webhook-id, hooks.example.com …" : "User, event, job, host"}
        maxlength={MAX_SEARCH}
        required
        autocomplete="off"
        autocapitalize="off"
        spellcheck={false}
      />
      <button type="submit">{isLarge ? "Search" : "Show"}</button>
    </form>
  </search>
);
