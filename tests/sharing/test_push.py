"""A model goes to the Hugging Face Hub and comes back the same; nothing private goes."""

import importlib.util
import json
import shutil
from pathlib import Path

import fake_hub
import numpy as np
import pytest
import safetensors

import thrifty_jax
from thrifty_jax import config as configs
from thrifty_jax import hub, model_folder, predict, push
from thrifty_jax.data import splits
from thrifty_jax.errors import InputError
from thrifty_jax.exporting import export_folder
from thrifty_jax.sharing import hub_card

hf = pytest.importorskip('huggingface_hub')
constants = pytest.importorskip('huggingface_hub.constants')
pytestmark = [
  pytest.mark.usefixtures('quick_compilation_of_module'),
  # Its own, of how it sends a large file.
  pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),
]

NAME = f'{fake_hub.USER}/liver-small'
# Patients and places that a model folder must not tell, and where they might hide.
PATIENTS = ('Jane_Doe', 'Case17')
PLACES = ('/home/jane/runs/old/model', '/srv/scans')
CARD = f"""\
# lean for liver

Research use only, not a medical device.

- Data: CT of the abdomen, fold 0 of 5, as volumes
- Started from the weights with SHA-256 {'0' * 64}
- Weights: of {PLACES[0]}: 12 tensors as they are
- Its patients: WARNING: it has learned from patients with the names of {', '.join(PATIENTS)}, \
who test here; if these are the same persons, the scores are too good
- Learned from masks; WARNING: the models have learned from patients with the names of \
{PATIENTS[0]}, who validate or test here; if they are the same, the scores are too good

Use it: `python -m thrifty_jax.predict --model=THIS_FOLDER --input=SCANS --output=MASKS`.
"""
TIMED = {
  'ms': 3.684, 'runtime': 'openvino', 'precision': 'int8', 'size': 256, 'machine': 'a processor',
  'threads': 2,
}  # fmt: skip
SCORES = {
  'data': 'folder',
  'split': 'test',
  'held_out': True,
  'patients': 2,
  'dsc_mean': 0.87654321,
  'dsc_std': 0.05,
  'hd95_mm_mean': 3.25,
  'nsd_mean': None,
  'classes': {'liver': {'dsc_mean': 0.87654321, 'hd95_mm_mean': 3.25, 'nsd_mean': 0.5}},
  'patient_names': {'test': PATIENTS},
  'cases': [{'case': PATIENTS[1], 'patient': PATIENTS[0]}],
  'agreements': [],
  'suspects': [{'case': PATIENTS[1]}],
}


@pytest.fixture(scope='module')
def make_model(tmp_path_factory, random_model):
  """The function from a seed to a scored model folder that knows more than it may tell."""

  def make(seed=0):
    config = configs.default()
    config.data.classes = ('background', 'liver')
    config.data.image_size = 16
    config.model.update({'channels': 4, 'depth': 2})
    folder = random_model(tmp_path_factory.mktemp('Jane_Doe') / 'model', config, seed=seed)
    (folder / 'card.md').write_text(CARD)
    genotype = json.loads((folder / 'genotype.json').read_text())
    told = {'data': 'folder', 'seed': 3, **TIMED}
    genotype['provenance'] = {**told, 'file': PLACES[1], 'by': PATIENTS[0]}
    genotype['comment'] = f'drawn by hand for {PATIENTS[0]}'
    (folder / 'genotype.json').write_text(json.dumps(genotype))
    model_folder.add_scores(folder, SCORES)
    return folder

  return make


@pytest.fixture(scope='module')
def model(make_model):
  return make_model()


@pytest.fixture(scope='module')
def exported(model, tmp_path_factory):
  """An export of the model, whose network need not run here, and what a person left beside it."""
  member, results = model_folder.load(model), {'slices': 1, 'equal_pixels': 1.0}
  contents = export_folder.make_contents(
    member,
    {'model.onnx': b'a network'},
    {'model.onnx': {**results, 'largest_difference': 0.0}},
    card=CARD.encode(),
    sides=16,
  )
  folder = tmp_path_factory.mktemp('exports') / 'exported'
  export_folder.write(folder, contents)
  (folder / 'Jane_Doe.nii.gz').write_bytes(b'a scan')
  return folder


@pytest.fixture(autouse=True)
def server(monkeypatch, tmp_path):
  """A Hub that the commands take for the real one; an empty cache; a token that may write."""
  with fake_hub.serve() as running:
    monkeypatch.setenv('HF_ENDPOINT', running.address)
    monkeypatch.setenv('HF_TOKEN', fake_hub.TOKEN)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'no_token'))
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)  # its servers are elsewhere
    yield running


def command(model, *more, to=NAME):
  return push.main([f'--model={model}', f'--to={to}', *more])


def refusal(capsys):
  """The one line in which a command refused."""
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  return line


# --- there and back


def test_a_model_comes_back_with_the_same_weights(model, server, capsys):
  assert command(model) == 0
  out = capsys.readouterr().out
  assert (
    f'thrifty-jax predict --model=hf://{NAME} ' in out and f'{server.address}/{NAME}/commit/' in out
  )
  there, back = model_folder.load(model), model_folder.load(hub.fetch(f'hf://{NAME}'))
  assert (back.sha256, back.spec, back.genotype) == (there.sha256, there.spec, there.genotype)
  repository = server.repositories[NAME]
  assert not repository.private and len(repository.messages) == 1
  segmenter = thrifty_jax.load_model(f'hf://{NAME}')
  volume = np.random.default_rng(0).normal(size=(3, 16, 16))
  expected = thrifty_jax.load_model(model).segment(volume, (1, 1, 1))
  np.testing.assert_array_equal(segmenter.segment(volume, (1, 1, 1)), expected)


def test_the_weights_say_what_they_are_of(model):
  with safetensors.safe_open(model / 'weights.safetensors', framework='np') as file:
    about = json.loads(file.metadata()['thrifty_jax'])
  assert about['network'] == 'thrifty' and about['classes'] == ['background', 'liver']
  assert about['note'] == thrifty_jax.RESEARCH_USE


def test_a_revision_is_a_branch_or_a_commit(model, make_model, server):
  other = make_model(seed=1)
  assert command(model) == 0
  first = server.repositories[NAME].branches['main']
  assert command(other) == 0
  assert command(model, '--revision=v1') == 0
  digests = {
    name: model_folder.describe(hub.fetch(f'hf://{NAME}{name}')).sha256
    for name in ('', f'@{first}', '@v1')
  }
  here, new = model_folder.describe(model).sha256, model_folder.describe(other).sha256
  assert digests == {'': new, f'@{first}': here, '@v1': here} and here != new
  assert hub.fetch(Path(f'hf://{NAME}')) == hub.fetch(f'hf://{NAME}')


def test_an_export_goes_with_it_and_leaves_with_the_next_one_without(model, exported, server):
  assert command(model, f'--export={exported}') == 0
  repository = server.repositories[NAME]
  assert repository.files['export/model.onnx'] == b'a network'
  assert {'export/segment.py', 'export/preprocessing.json'} <= repository.files.keys()
  repository.files['figure.png'] = b'of a person'
  assert command(model) == 0
  names = repository.files.keys()
  assert not [name for name in names if name.startswith('export/')] and 'figure.png' in names


def test_a_dry_run_lists_everything_and_sends_nothing(model, exported, server, capsys, monkeypatch):
  monkeypatch.delenv('HF_TOKEN')
  assert command(model, f'--export={exported}', '--dry_run') == 0
  out = capsys.readouterr().out
  size = (model / 'weights.safetensors').stat().st_size
  assert f'{size:,} bytes  weights.safetensors' in out and 'export/model.onnx' in out
  assert 'nothing was sent' in out and server.asked == []


# --- what goes


@pytest.mark.parametrize('change', [{'machine': f'{PATIENTS[0]}\n'}, {'ms': PATIENTS[0]}])
def test_a_time_that_is_none_does_not_go(model, server, tmp_path, change):
  other = tmp_path / 'model'
  shutil.copytree(model, other)
  path = other / 'genotype.json'
  genotype = json.loads(path.read_text())
  genotype['provenance'] |= change
  path.write_text(json.dumps(genotype))
  model_folder.sign(other)
  assert command(other) == 0
  sent = json.loads(server.repositories[NAME].files['genotype.json'])
  assert sent['provenance'] == {'data': 'folder', 'seed': 3}


def test_nothing_that_names_a_patient_or_a_place_goes(model, exported, server):
  assert command(model, f'--export={exported}') == 0
  sent = server.repositories[NAME].files
  assert sorted(name for name in sent if '/' not in name) == [
    *('README.md', 'card.md', 'checksums.json', 'genotype.json', 'preprocessing.json'),
    *('scores.json', 'weights.safetensors'),
  ]
  assert 'export/Jane_Doe.nii.gz' not in sent
  words = (*PATIENTS, *PLACES, str(model), str(model.parent), str(exported), str(Path.home()))
  for name, content in sent.items():
    leaks = [word for word in words if word.encode() in content and word != '/']
    assert leaks == [], f'{name}: {leaks}'
  scores = json.loads(sent['scores.json'])
  assert scores['dsc_mean'] == SCORES['dsc_mean'] and scores['patients'] == 2
  genotype = json.loads(sent['genotype.json'])
  assert genotype['provenance'] == {'data': 'folder', 'seed': 3, **TIMED}
  card = sent['card.md'].decode()
  assert '- Weights: 12 tensors as they are' in card and 'WARNING: it has learned from' in card


def test_the_page_has_what_the_hub_reads(model, exported, server):
  assert command(model, f'--export={exported}', '--license=cc-by-4.0') == 0
  text = server.repositories[NAME].files['README.md'].decode()
  about = hf.ModelCard(text).data
  assert (about.license, about.library_name) == ('cc-by-4.0', 'thrifty_jax')
  assert about.pipeline_tag == 'image-segmentation' and 'medical-imaging' in about.tags
  found = {result.metric_name: result for result in about.eval_results}
  values = {name: (result.metric_type, result.metric_value) for name, result in found.items()}
  assert values == {
    'DSC, mean': ('dice', 0.8765),
    'HD95, mean': ('hd95', 3.25),
    'DSC, liver': ('dice', 0.8765),
    'NSD, liver': ('nsd', 0.5),
    'HD95, liver': ('hd95', 3.25),
  }
  one = found['DSC, mean']
  assert (one.dataset_name, one.dataset_split) == ('CT of the abdomen', 'test')
  assert f'--model=hf://{NAME} ' in text and 'THIS_FOLDER' not in text
  assert 'Research use only' in text and '- `export/model.onnx`' in text


@pytest.mark.parametrize('parts', [(), ('test',), ('validation',), ('validation', 'test')])
def test_the_page_has_the_title_of_the_data_whatever_splits_the_patients(model, parts):
  data = configs.default().data
  data.update({f'{part}_patients': PATIENTS for part in parts})
  card = CARD.replace('fold 0 of 5', splits.describe(data))
  place = hub.parse(f'hf://{NAME}')
  text = hub_card.write(
    model_folder.describe(model), SCORES, card, place=place, licence='', names=[]
  )
  results = hf.ModelCard(text).data.eval_results
  assert {result.dataset_name for result in results} == {'CT of the abdomen'}


@pytest.mark.parametrize(
  ('name', 'needed'), [('model.onnx', 'JAX'), ('model.stablehlo', 'thrifty_jax')]
)
def test_the_page_says_what_an_export_runs_without(model, name, needed):
  place = hub.parse(f'hf://{NAME}')
  text = hub_card.write(
    model_folder.describe(model), None, CARD, place=place, licence='', names=[f'export/{name}']
  )
  assert f'`export/` runs without {needed}: its README.md says how.' in text


def test_without_a_licence_and_scores_the_page_says_that_the_terms_of_the_data_decide(
  model, server, tmp_path
):
  folder = shutil.copytree(model, tmp_path / 'model')
  (folder / 'scores.json').unlink()
  model_folder.sign(folder)
  assert command(folder) == 0
  about = hf.ModelCard(server.repositories[NAME].files['README.md'].decode()).data
  assert (about.license, about.license_name) == ('other', 'terms-of-the-training-data')
  assert about.eval_results is None


# --- what is refused


def test_the_package_that_is_missing_is_named_with_what_installs_it(model, monkeypatch, capsys):
  find = importlib.util.find_spec
  without = lambda name: None if name == 'huggingface_hub' else find(name)  # noqa: E731
  monkeypatch.setattr(importlib.util, 'find_spec', without)
  assert command(model) == 2
  assert 'pip install -r requirements-hub.txt' in refusal(capsys)
  with pytest.raises(InputError, match='needs huggingface_hub, not installed here'):
    thrifty_jax.load_model(f'hf://{NAME}')


def test_without_a_token_nothing_is_read_or_sent(server, monkeypatch, capsys):
  monkeypatch.delenv('HF_TOKEN')
  assert command('no/such/model') == 2
  assert 'there is no token' in (line := refusal(capsys)) and 'HF_TOKEN' in line
  assert server.asked == []


@pytest.mark.parametrize(
  ('to', 'token', 'message'),
  [
    (NAME, 'hf_other', 'the token may not do this'),
    ('somebody/else', fake_hub.TOKEN, 'the token may not do this'),
    ('liver', fake_hub.TOKEN, '--to=liver: expected OWNER/NAME'),
    (f'{NAME}@v1', fake_hub.TOKEN, 'a branch is --revision=BRANCH'),
    ('some one/liver', fake_hub.TOKEN, 'expected OWNER/NAME'),
    ('someone/liver--small', fake_hub.TOKEN, 'is no name of a repository'),
  ],
)
def test_what_the_hub_refuses_is_one_line(model, server, to, token, message, monkeypatch, capsys):
  monkeypatch.setenv('HF_TOKEN', token)
  assert command(model, to=to) == 2
  assert message in refusal(capsys) and server.repositories == {}


def test_what_is_to_be_private_is_not_sent_where_everybody_can_read(model, server, capsys):
  assert command(model, '--private', to=f'{NAME}-2') == 0
  assert server.repositories[f'{NAME}-2'].private
  server.repositories[NAME] = fake_hub.Repository(private=False)
  assert command(model, '--private') == 2
  assert 'everybody can read it' in refusal(capsys)
  assert server.repositories[NAME].files == {}


def test_an_export_of_other_weights_or_with_another_network_is_refused(
  model, make_model, exported, tmp_path, server, capsys
):
  assert command(make_model(seed=2), f'--export={exported}') == 2
  assert 'is the export of another model' in refusal(capsys)
  folder = shutil.copytree(exported, tmp_path / 'exported')
  (folder / 'model.onnx').write_bytes(b'another')
  assert command(model, f'--export={folder}') == 2
  assert 'is not the file that was exported' in refusal(capsys)
  assert command(model, f'--export={tmp_path}') == 2
  assert 'is no export' in refusal(capsys) and server.asked == []


def test_a_damaged_model_is_not_sent(model, tmp_path, server, capsys):
  folder = shutil.copytree(model, tmp_path / 'model')
  (folder / 'card.md').write_text('another')
  assert command(folder) == 2
  assert 'is not the file that was saved with this model' in refusal(capsys)
  assert server.asked == []


def test_a_network_that_is_away_is_one_line_and_what_was_fetched_before_still_loads(
  model, server, monkeypatch, capsys
):
  assert command(model) == 0
  fetched = hub.fetch(f'hf://{NAME}')
  monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
  capsys.readouterr()
  assert hub.fetch(f'hf://{NAME}') == fetched
  assert 'cannot be reached; hf://' in capsys.readouterr().out
  with pytest.raises(InputError, match='cannot be reached, and the model was not fetched before'):
    hub.fetch(f'hf://{NAME}-2')
  assert capsys.readouterr() == ('', '')
  assert command(model) == 2
  assert 'the connection to the Hub failed' in refusal(capsys)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    (f'hf://{NAME}', 'there is no such model, or only for others'),
    ('hf://someone/pictures', r'is no model of thrifty_jax: a file is missing'),
    ('hf://someone/pictures@v9', 'has no such branch, tag or commit'),
    ('hf://someone', 'expected hf://OWNER/NAME, or hf://OWNER/NAME@REVISION'),
    ('hf:/', 'expected hf://OWNER/NAME'),
    ('hf://someone/..', 'is no name of a repository'),
  ],
)
def test_what_is_no_model_on_the_hub_is_one_line(name, message, server, tmp_path, capsys):
  other = fake_hub.Repository(private=False)
  other.files['README.md'] = b'# Pictures'
  server.repositories['someone/pictures'] = other
  (tmp_path / 'scan.nii.gz').write_bytes(b'')
  line = [f'--model={name}', f'--input={tmp_path / "scan.nii.gz"}', f'--output={tmp_path / "m"}']
  assert predict.main(line) == 2
  assert message in refusal(capsys)


@pytest.mark.parametrize('name', ['weights.safetensors', 'preprocessing.json', 'checksums.json'])
def test_what_is_damaged_on_the_way_is_one_line_and_is_not_kept(name, model, server):
  assert command(model) == 0
  server.damage = lambda path, data: bytes([data[0] ^ 1, *data[1:]]) if path == name else data
  with pytest.raises(InputError, match='cannot be used: '):
    hub.fetch(f'hf://{NAME}')
  server.damage = lambda path, data: data
  back = hub.fetch(f'hf://{NAME}')
  assert model_folder.describe(back).sha256 == model_folder.describe(model).sha256


def test_a_download_that_ends_early_is_one_line(model, server):
  assert command(model) == 0
  server.damage = lambda path, data: data[:-1] if path == 'weights.safetensors' else data
  with pytest.raises(InputError, match='the connection to the Hub failed'):
    hub.fetch(f'hf://{NAME}')


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(model):
  assert command(model) == 0
  folder = hub.fetch(f'hf://{NAME}')
  weights = (folder / 'weights.safetensors').resolve()
  weights.write_bytes(weights.read_bytes()[:-1] + b'\0')
  assert hub.fetch(f'hf://{NAME}') == folder
  assert model_folder.describe(folder).sha256 == model_folder.describe(model).sha256


def test_the_names_in_an_export_are_those_that_an_export_writes(exported):
  about = export_folder.read(exported)
  assert {path.name for path in exported.iterdir()} - {*export_folder.list_names(about)} == {
    'Jane_Doe.nii.gz'
  }
