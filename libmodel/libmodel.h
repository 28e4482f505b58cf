/* libmodel: reads and writes large-language-model checkpoints. */
#ifndef LIBMODEL_LIBMODEL_H
#define LIBMODEL_LIBMODEL_H

#include "libmodel/arch.h"
#include "libmodel/bytes.h"
#include "libmodel/dtype.h"
#include "libmodel/err.h"
#include "libmodel/format.h"
#include "libmodel/imatrix.h"
#include "libmodel/meta.h"
#include "libmodel/model.h"
#include "libmodel/tokenizer.h"
#include "libmodel/vocab.h"

#define LM_VERSION "0.1.0"
#endif
