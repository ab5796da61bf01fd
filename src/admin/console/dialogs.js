// The page's dialogs: the token, the confirmation of an action, and the list of shortcuts.

import { h } from "./dom.js";

const find = (id) => document.getElementById(id);

/** Opens a dialog and resolves when it closes: true if its form was submitted. Restores the focus. */
function answered(dialog, focused) {
  return new Promise((resolve) => {
    const before = document.activeElement;
    const form = dialog.querySelector("form");
    const aborter = new AbortController();
    const { signal } = aborter;
    let yes = false;
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        yes = true;
        dialog.close();
      },
      { signal },
    );
    dialog.querySelector("[data-cancel]")?.addEventListener("click", () => dialog.close(), { signal });
    dialog.addEventListener(
      "close",
      () => {
        aborter.abort();
        if (before?.isConnected) before.focus({ preventScroll: true });
        resolve(yes);
      },
      { signal },
    );
    dialog.showModal();
    focused?.focus();
  });
}

/** Prompts for the token; null if the dialog is cancelled. */
export async function askToken(wasWrong) {
  const input = find("token-input");
  input.value = "";
  find("token-error").textContent = wasWrong ? "Invalid token." : "";
  input.setAttribute("aria-invalid", String(wasWrong));
  const given = await answered(find("token"), input);
  const token = input.value.trim();
  input.value = "";
  return given && token ? token : null;
}

/** Asks for confirmation: null if cancelled, else `{chosen, words}`: the state of the checkbox, if there is a `choice`, and
 * the reason, if `asksWhy`. */
export async function askFirst({ title, text, choice = null, hint = "", yes, asksWhy = false }) {
  find("question-title").textContent = title;
  find("question-text").replaceChildren(
    ...text.map((part) => (typeof part === "string" ? part : h("strong", null, part.strong))),
  );
  find("question-label").textContent = choice ?? "";
  find("question-label").parentElement.hidden = choice === null;
  find("question-words").hidden = !asksWhy;
  const input = find("question-input");
  input.value = "";
  input.required = asksWhy;
  find("question-hint").textContent = hint;
  find("question-yes").textContent = yes;
  const box = find("question-choice");
  box.checked = false;
  const given = await answered(find("question"), asksWhy ? input : find("question-yes"));
  return given ? { chosen: box.checked, words: input.value.trim() } : null;
}

export const showKeys = () => answered(find("help"));

export const isOpen = () => document.querySelector("dialog[open]") !== null;
