def read(folder, config):
  raise NotImplementedError
