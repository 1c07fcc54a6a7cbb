// Draws what pymdownx.arithmatex marked. Without a network the formulas stay as TeX.
document.addEventListener("DOMContentLoaded", () => {
  if (typeof renderMathInElement === "undefined") return;
  for (const element of document.querySelectorAll(".arithmatex")) {
    renderMathInElement(element, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
    });
  }
});
