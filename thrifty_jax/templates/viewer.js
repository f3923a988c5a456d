for (const viewer of document.querySelectorAll('.viewer')) {
  const frames = JSON.parse(document.getElementById(viewer.dataset.frames).textContent);
  const input = viewer.querySelector('input'), output = viewer.querySelector('output');
  const show = () => {
    const i = +input.value;
    for (const image of viewer.querySelectorAll('img')) image.src = frames[image.dataset.layer][i];
    output.textContent = `${frames.slices[i]} of ${frames.total}`;
  };
  input.addEventListener('input', show);
  show();
}
