/* Put the reader's colours on before the page is painted, and keep the choice.
   Not a module: it runs before the body, so that nobody in the dark sees a white flash. */
(() => {
  const KEY = "offramp.theme";
  const stored = () => {
    try {
      return localStorage.getItem(KEY) ?? "auto";
    } catch {
      return "auto"; // storage is switched off: the choice lasts as long as the page
    }
  };
  const put = (theme) => {
    document.documentElement.dataset.theme = theme;
  };

  put(stored());
  addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    const radio = choice.querySelector(`[value="${CSS.escape(stored())}"]`);
    if (radio) radio.checked = true;
    choice.addEventListener("change", (event) => {
      put(event.target.value);
      try {
        localStorage.setItem(KEY, event.target.value);
      } catch {
        // as above
      }
    });
  });
})();
